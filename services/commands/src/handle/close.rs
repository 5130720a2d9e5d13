//! CloseAccount and EraseAccount.

use omnirun_commands_api::command::{Personal, Whose};
use omnirun_commands_api::{Code, Envelope, Rejection, Reply};
use omnirun_events::envelope::Actor;
use omnirun_events::id::AccountId;
use omnirun_events::subject::{Subject, SubjectKind};

use super::send_code::parse;
use crate::address::Address;
use crate::decide::close::{self, Acting};
use crate::decide::{Wish, not_found};
use crate::failure::Failure;
use crate::service::CommandService;

impl CommandService {
    pub(crate) async fn close_account(
        &self,
        envelope: &Envelope,
        account: AccountId,
        confirm: &Personal,
    ) -> Result<Reply, Failure> {
        let subjects = subjects(account);
        self.writer.reach(&subjects).await?;
        let typed = Address::parse(confirm.reveal()).ok();
        if typed.is_none() || typed != self.opened_address(account).await? {
            let message = "confirm has to be the account's own address; nothing was done.";
            return Err(Rejection::new(Code::Invalid, message).into());
        }
        let wish = Wish::of(envelope, account, (self.clock)());
        self.writer.run(&subjects, |directory| close::decide(directory, &wish, None)).await
    }

    pub(crate) async fn erase_account(
        &self,
        envelope: &Envelope,
        whose: &Whose,
        operator: &str,
        reason: &str,
    ) -> Result<Reply, Failure> {
        if envelope.actor != Actor::Operator {
            return Err(not_found().into());
        }
        let acting = Acting::new(operator, reason)?;
        let account = self.account_named(whose).await?;
        acting.must_not_name(account)?;
        let wish = Wish::of(envelope, account, (self.clock)());
        let [own, admission] = subjects(account);
        let subjects = [own, admission, SubjectKind::Ops.into()];
        self.writer.run(&subjects, |directory| close::decide(directory, &wish, Some(&acting))).await
    }

    /// The account that an operator names. An id is taken as it is; whether there is such an account is for who decides.
    pub(super) async fn account_named(&self, whose: &Whose) -> Result<AccountId, Failure> {
        let typed = match whose {
            Whose::Account(account) => return Ok(*account),
            Whose::Address(typed) => parse(typed)?,
        };
        self.writer.reach(&[SubjectKind::Registry.into()]).await?;
        self.index.sync().await?;
        Ok(self.index.get(&typed).ok_or_else(not_found)?)
    }
}

fn subjects(account: AccountId) -> [Subject; 2] {
    [SubjectKind::Account(account).into(), SubjectKind::Admission(account).into()]
}
