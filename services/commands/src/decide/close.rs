//! CloseAccount and EraseAccount: the beginning of an erasure. How it goes on is in [`crate::erasure`].

use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::account::AccountClosing;
use omnirun_events::id::{AccountId, ReceiptId};
use omnirun_events::ops::{Action, OpsActed};
use omnirun_events::subject::SubjectKind;
use omnirun_projections::Directory;

use super::{Decision, Wish, not_found};

/// Characters of what an operator says, at most.
const TEXT_MAX: usize = 200;

/// The operator who acts for the account's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acting {
    /// What the operator is called.
    pub operator: String,
    /// Why.
    pub reason: String,
}

impl Acting {
    /// What the operator said, if it may stay on the log for good: one line each, and no address.
    pub fn new(operator: &str, reason: &str) -> Result<Self, Rejection> {
        for (what, text) in [("operator's name", operator), ("reason", reason)] {
            let is_good = (1..=TEXT_MAX).contains(&text.chars().count())
                && !text.trim().is_empty()
                && !text.chars().any(char::is_control);
            if !is_good {
                let message = format!("The {what} is one line of 1 to {TEXT_MAX} characters.");
                return Err(Rejection::new(Code::Invalid, message));
            }
            if text.contains('@') {
                let message = format!("The {what} stays on the log for good and may hold no address.");
                return Err(Rejection::new(Code::Invalid, message));
            }
        }
        Ok(Self { operator: operator.to_owned(), reason: reason.to_owned() })
    }

    /// Refuses what names the account, which the record outlives.
    pub fn must_not_name(&self, account: AccountId) -> Result<(), Rejection> {
        let id = account.to_string();
        if [&self.operator, &self.reason].into_iter().any(|text| text.to_lowercase().contains(&id)) {
            let message = "The operator's name and the reason stay on the log and may not name the account.";
            return Err(Rejection::new(Code::Invalid, message));
        }
        Ok(())
    }
}

/// Decides. `AccountClosing` goes to the account's subject and to its admission subject, so that a request which was decided before is
/// refused by the store. An account that is closing already stays as it is; an operator's word is noted all the same.
pub fn decide(directory: &Directory, wish: &Wish, acting: Option<&Acting>) -> Result<Decision, Rejection> {
    let account = directory.accounts.get(wish.account).ok_or_else(not_found)?;
    let (receipt, since, mut drafts) = match &account.closing {
        Some(closing) => (closing.receipt, closing.since, Vec::new()),
        None => {
            let receipt = ReceiptId::derive(wish.id.as_bytes(), "receipt");
            let subjects = [SubjectKind::Account(wish.account), SubjectKind::Admission(wish.account)];
            let drafts = subjects.map(|subject| wish.draft(subject, AccountClosing { receipt }));
            (receipt, wish.now, drafts.to_vec())
        }
    };
    if let Some(Acting { operator, reason }) = acting {
        let action = Action::EraseAccount { receipt };
        let acted = OpsActed { operator: operator.clone(), action, reason: reason.clone() };
        drafts.push(wish.draft(SubjectKind::Ops, acted));
    }
    let outcome = Outcome::AccountClosing { receipt, since };
    Ok(if drafts.is_empty() { Decision::Already(outcome) } else { Decision::Write(drafts, outcome) })
}
