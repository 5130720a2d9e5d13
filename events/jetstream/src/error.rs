//! What goes wrong between here and the server, as the source of a log's errors.

use omnirun_events::Log;
use omnirun_events::log::{EraseError, ReadError};

/// Any reason, boxed as the errors of a log carry it.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync>;

/// Reasons that the client library has no error for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    #[error("the server did not answer within {0:?}")]
    NoAnswer(std::time::Duration),
    #[error("the server does not deliver records that it says it has")]
    NoDelivery,
    #[error("the server refused the record and shows no other in its place")]
    Refused,
    #[error("this connection was not opened for that log")]
    NotOpened,
    #[error("the connection is shutting down")]
    Closing,
}

pub(crate) fn unavailable(log: Log, source: impl Into<Source>) -> ReadError {
    ReadError::Unavailable { log, source: source.into() }
}

pub(crate) fn cannot_erase(log: Log, source: impl Into<Source>) -> EraseError {
    EraseError { log, source: source.into() }
}
