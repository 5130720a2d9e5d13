//! What the shell is told.

use omnirun_events::log::ReadError;
use omnirun_events::verify::Fault;
use omnirun_runner::NotReached;

/// What the shell is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and nothing is wrong: 0.
    Good,
    /// Something is wrong with the log or a read model: 1.
    Bad,
    /// It could not be done, or was asked wrongly: 2.
    Failed,
    /// The store cannot be reached, so nothing is known: 3.
    Unreadable,
}

impl Exit {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Failed => 2,
            Self::Unreadable => 3,
        }
    }
}

pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if cause.is::<Fault>() || matches!(cause.downcast_ref(), Some(NotReached::Stopped(_))) {
            return Exit::Bad;
        }
        match cause.downcast_ref() {
            Some(ReadError::Unavailable { .. }) => return Exit::Unreadable,
            Some(ReadError::Corrupt { .. }) => return Exit::Bad,
            None => {}
        }
    }
    Exit::Failed
}

pub(crate) fn has_cause(error: &anyhow::Error, is_it: fn(&std::io::Error) -> bool) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(is_it))
}

pub(crate) fn is_broken_pipe(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}
