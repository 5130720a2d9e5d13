//! RecordOperator: who did what for whom at the operator's terminal, and why, before it is done.

use omnirun_commands_api::command::Whose;
use omnirun_commands_api::{Envelope, Outcome, Reply};
use omnirun_events::envelope::Actor;
use omnirun_events::ops::OpsActed;
use omnirun_events::subject::SubjectKind;

use crate::decide::close::Acting;
use crate::decide::{Decision, Wish, not_found};
use crate::failure::Failure;
use crate::service::CommandService;

impl CommandService {
    pub(crate) async fn record_operator(
        &self,
        envelope: &Envelope,
        whose: &Whose,
        acted: &OpsActed,
    ) -> Result<Reply, Failure> {
        if envelope.actor != Actor::Operator {
            return Err(not_found().into());
        }
        let acting = Acting::new(&acted.operator, &acted.reason)?;
        let account = self.account_named(whose).await?;
        acting.must_not_name(account)?;
        let wish = Wish::of(envelope, account, (self.clock)());
        let subjects = [SubjectKind::Account(account).into(), SubjectKind::Ops.into()];
        let decide = |directory: &omnirun_projections::Directory| {
            directory.accounts.get(account).ok_or_else(not_found)?;
            let drafts = vec![wish.draft(SubjectKind::Ops, acted.clone())];
            Ok(Decision::Write(drafts, Outcome::OperatorRecorded { account }))
        };
        self.writer.run(&subjects, decide).await
    }
}
