//! CloseStatement, CorrectStatement, ChangePlan, SendUsageNotice: asked by the projector and by operators, never by an account's owner.

use omnirun_billing::Period;
use omnirun_billing::calendar::Date;
use omnirun_commands_api::mail::{Content, Mail};
use omnirun_commands_api::{Envelope, Outcome, Reply};
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::billing::{StatementClosed, StatementCorrected, UsageNoticed};
use omnirun_events::envelope::Actor;
use omnirun_events::id::AccountId;
use omnirun_events::subject::{Subject, SubjectKind};

use crate::decide::{Wish, billing, not_found};
use crate::failure::Failure;
use crate::service::CommandService;

impl CommandService {
    pub(crate) async fn close_statement(
        &self,
        envelope: &Envelope,
        account: AccountId,
        statement: &StatementClosed,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let decide = |directory: &_| billing::close(directory, &self.plans, &wish, statement);
        self.writer.run(&subjects(account), decide).await
    }

    pub(crate) async fn correct_statement(
        &self,
        envelope: &Envelope,
        account: AccountId,
        corrected: &StatementCorrected,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let decide = |directory: &_| billing::correct(directory, &wish, corrected);
        self.writer.run(&subjects(account), decide).await
    }

    pub(crate) async fn change_plan(
        &self,
        envelope: &Envelope,
        account: AccountId,
        plan: &str,
    ) -> Result<Reply, Failure> {
        if envelope.actor != Actor::Operator {
            return Err(not_found().into());
        }
        let wish = Wish::of(envelope, account, (self.clock)());
        let decide = |directory: &_| billing::change_plan(directory, &self.plans, &wish, plan);
        self.writer.run(&subjects(account), decide).await
    }

    /// Writes that the account is told and then hands over the mail: a crash in between costs it the mail, never sends it twice.
    pub(crate) async fn send_usage_notice(
        &self,
        envelope: &Envelope,
        account: AccountId,
        noticed: &UsageNoticed,
    ) -> Result<Reply, Failure> {
        let wish = Wish::of(envelope, account, (self.clock)());
        let decide = |directory: &_| billing::notice(directory, &self.plans, &wish, noticed);
        let reply = self.writer.run(&subjects(account), decide).await?;
        if let Outcome::UsageNoticed = reply.outcome {
            self.mail_notice(account, noticed).await?;
        }
        Ok(reply)
    }

    async fn mail_notice(&self, account: AccountId, noticed: &UsageNoticed) -> Result<(), Failure> {
        let (email, period) = self
            .writer
            .directory
            .view(|directory, _| {
                let known = directory.accounts.get(account)?;
                Some((known.email.clone(), Period::of(known.opened_at, noticed.start)))
            })
            .ok_or_else(not_found)?;
        let subject = Subject::from(SubjectKind::Account(account));
        // Without its key the account is being erased: there is nobody to tell.
        let Some(to) = self.keys.open(account, &email, &subject, EMAIL_FIELD).await? else { return Ok(()) };
        let content = Content::UsageNotice {
            percent: noticed.percent,
            used: noticed.used,
            included: noticed.included,
            resets_on: Date::of(period.end).to_string(),
        };
        self.outbox.hand_over(Mail { to, content });
        Ok(())
    }
}

fn subjects(account: AccountId) -> [Subject; 2] {
    [SubjectKind::Account(account).into(), SubjectKind::Billing(account).into()]
}
