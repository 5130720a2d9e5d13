//! Why a command got no reply: refused, or not known to be done.

use omnirun_commands_api::{Code, Rejection, SendError};
use omnirun_events::codec::EncodeError;
use omnirun_events::log::{EraseError, ReadError};
use omnirun_events::unit::Millis;
use omnirun_runner::NotReached;

use crate::master::MasterKeyError;

/// When to come back after something that passes.
const BUSY_FOR: Millis = Millis(1000);

/// No reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was done, and why.
    Rejected(Rejection),
    /// The store did not confirm: it may or may not have been done. The same command with the same id is safe and tells.
    Unknown,
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejected(rejection) => Self::Rejected(rejection),
            Failure::Unknown => Self::TimedOut,
        }
    }
}

/// Nothing was done; it may pass.
pub(crate) fn busy(message: &str) -> Failure {
    Rejection::retryable(Code::Busy, message, BUSY_FOR).into()
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        tracing::error!(reason = chain(&error), "the event log cannot be read");
        busy("The event log does not answer; nothing was done. Try again.")
    }
}

impl From<EraseError> for Failure {
    fn from(error: EraseError) -> Self {
        tracing::error!(reason = chain(&error), "records cannot be erased");
        busy("The event log does not erase for now; try again.")
    }
}

impl From<MasterKeyError> for Failure {
    fn from(error: MasterKeyError) -> Self {
        tracing::error!(reason = chain(&error), "the master key cannot be used");
        busy("The master key cannot be used; nothing was done. An operator has to look at it.")
    }
}

impl From<NotReached> for Failure {
    fn from(error: NotReached) -> Self {
        tracing::error!(reason = chain(&error), "the commands service does not see the end of the event log");
        busy("The commands service is catching up with the event log; nothing was done. Try again.")
    }
}

impl From<EncodeError> for Failure {
    fn from(error: EncodeError) -> Self {
        tracing::error!(reason = chain(&error), "a decision cannot be written down");
        Rejection::new(Code::Invalid, "The request is too large to be written down.").into()
    }
}

/// An error and its causes in one line. None of ours holds personal data.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text = format!("{text}: {next}");
        source = next.source();
    }
    text
}
