//! Deciding: what a command makes of what is known. Pure: time, ids and sealed values come in, drafts and an answer go out.
//!
//! One file per family. A decision may be made several times before it is written; the last one counts.

pub mod repeat;

pub mod email;
pub mod sign_in;
pub mod tokens;

pub mod close;

pub mod admission;
pub mod billing;
pub mod extend;
pub mod pause;
pub mod request;
pub mod resume;
pub mod stop;

use omnirun_commands_api::{Code, Envelope, Outcome, Rejection};
use omnirun_events::envelope::{Actor, Draft};
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, CommandId, CommitId};
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::Timestamp;
use omnirun_projections::Directory;
use omnirun_projections::accounts::Account;

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Append these, all or none, and then answer.
    Write(Vec<Draft>, Outcome),
    /// There is nothing to append: it is so already.
    Already(Outcome),
}

impl Decision {
    /// What is to be appended.
    pub fn drafts(&self) -> &[Draft] {
        match self {
            Self::Write(drafts, _) => drafts,
            Self::Already(_) => &[],
        }
    }
}

/// What every decision needs of its command.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Names the wish; ids of what it makes follow from it.
    pub id: CommandId,
    /// Whose account it is about.
    pub account: AccountId,
    /// Who wants it.
    pub actor: Actor,
    /// When it is decided.
    pub now: Timestamp,
}

impl Wish {
    /// The wish of an envelope about `account`.
    pub fn of(envelope: &Envelope, account: AccountId, now: Timestamp) -> Self {
        Self { id: envelope.id, account, actor: envelope.actor, now }
    }

    /// The commit of what is written for it.
    pub fn commit(&self) -> CommitId {
        CommitId::derive(self.id.as_bytes(), "commit")
    }

    /// A draft of one event of this wish.
    pub fn draft(&self, subject: SubjectKind, event: impl Into<Event>) -> Draft {
        Draft {
            commit: self.commit(),
            subject: subject.into(),
            at: self.now,
            actor: self.actor,
            cause: None,
            events: vec![event.into()],
        }
    }
}

/// The account is being erased: nothing new is done for it.
pub(crate) fn closing() -> Rejection {
    Rejection::new(
        Code::AccountClosing,
        "This account is being erased. Its address can be used for a new one once that is done.",
    )
}

/// Refuses what is new for an account that is not there, or that is being erased.
pub(crate) fn must_be_open(directory: &Directory, account: AccountId) -> Result<&Account, Rejection> {
    let known = directory.accounts.get(account).ok_or_else(not_found)?;
    if known.closing.is_some() { Err(closing()) } else { Ok(known) }
}

/// It does not exist, or not for this account: one answer for both.
pub(crate) fn not_found() -> Rejection {
    Rejection::new(Code::NotFound, "There is no such thing in this account.")
}

/// The idempotency key came before, with another wish.
pub(crate) fn other_wish() -> Rejection {
    Rejection::new(
        Code::IdempotencyConflict,
        "This idempotency key was used before for a different request; use a new key.",
    )
}
