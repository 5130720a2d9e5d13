//! Frames of the socket: what is asked, what is answered, and how both are read within a limit.

use bytes::Bytes;
use omnirun_commands_api::{Envelope, Rejection, Reply, SendError};
use omnirun_events::codec::RECORD_BYTES_MAX;
use omnirun_events::log::{Page, Position, ReadError, Sequence, Stored, Tail};
use omnirun_events::subject::{Filter, Log, Subject};
use omnirun_runner::Snapshot;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Records in one page over the socket, at most.
pub(super) const PAGE_RECORDS_MAX: usize = 256;

/// Bytes of one frame, at most: a page of the largest records, and as much again for each record's frame as a small page needs.
const FRAME_BYTES_MAX: usize = PAGE_RECORDS_MAX * (RECORD_BYTES_MAX + 1024);

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Head(Log),
    Last(Subject),
    /// Makes a cursor, which [`Request::Next`] then moves.
    Open {
        log: Log,
        filter: Filter,
        after: Sequence,
    },
    Next {
        limit: usize,
        tail: WireTail,
    },
    Views,
    Snapshot(String),
    /// For the commands service, as an operator wants it.
    Command(Box<Envelope>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Head(Sequence),
    Last(Option<WireStored>),
    Opened,
    Page(WirePage),
    Views(Vec<String>),
    Snapshot(Option<Snapshot>),
    Command(Box<Result<Reply, WireSendError>>),
    Failed(WireError),
}

/// Why a command got no reply.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireSendError {
    Rejected(Rejection),
    NoResponders,
    TimedOut,
    Exchange(String),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum WireTail {
    Return,
    Wait,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireStored {
    sequence: Sequence,
    subject: Subject,
    record: Bytes,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WirePage {
    records: Vec<WireStored>,
    through: Sequence,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireError {
    Unavailable { log: Log, why: String },
    Corrupt { at: Position, what: String },
    Misused,
}

impl From<Tail> for WireTail {
    fn from(tail: Tail) -> Self {
        match tail {
            Tail::Return => Self::Return,
            Tail::Wait => Self::Wait,
        }
    }
}

impl From<WireTail> for Tail {
    fn from(tail: WireTail) -> Self {
        match tail {
            WireTail::Return => Self::Return,
            WireTail::Wait => Self::Wait,
        }
    }
}

impl From<Stored> for WireStored {
    fn from(stored: Stored) -> Self {
        Self { sequence: stored.sequence, subject: stored.subject, record: stored.record }
    }
}

impl From<WireStored> for Stored {
    fn from(stored: WireStored) -> Self {
        Self { sequence: stored.sequence, subject: stored.subject, record: stored.record }
    }
}

impl From<Page> for WirePage {
    fn from(page: Page) -> Self {
        Self { records: page.records.into_iter().map(Into::into).collect(), through: page.through }
    }
}

impl From<WirePage> for Page {
    fn from(page: WirePage) -> Self {
        Self { records: page.records.into_iter().map(Into::into).collect(), through: page.through }
    }
}

impl From<ReadError> for WireError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable { log, source } => {
                Self::Unavailable { log, why: crate::text::chain(source.as_ref()) }
            }
            ReadError::Corrupt { at, what } => Self::Corrupt { at, what },
        }
    }
}

impl WireError {
    /// The error as the reader on this side of the socket gives it.
    pub(super) fn into_read_error(self, log: Log) -> ReadError {
        match self {
            Self::Unavailable { log, why } => ReadError::Unavailable { log, source: why.into() },
            Self::Corrupt { at, what } => ReadError::Corrupt { at, what },
            Self::Misused => {
                ReadError::Unavailable { log, source: "another build answers the socket".into() }
            }
        }
    }
}

impl From<SendError> for WireSendError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Rejected(rejection) => Self::Rejected(rejection),
            SendError::NoResponders => Self::NoResponders,
            SendError::TimedOut => Self::TimedOut,
            SendError::Exchange { source } => Self::Exchange(crate::text::chain(source.as_ref())),
        }
    }
}

impl From<WireSendError> for SendError {
    fn from(error: WireSendError) -> Self {
        match error {
            WireSendError::Rejected(rejection) => Self::Rejected(rejection),
            WireSendError::NoResponders => Self::NoResponders,
            WireSendError::TimedOut => Self::TimedOut,
            WireSendError::Exchange(why) => Self::Exchange { source: why.into() },
        }
    }
}

/// Why a frame cannot be exchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("a frame of {bytes} bytes is above the limit")]
    TooLarge { bytes: usize },
    #[error("a frame cannot be encoded")]
    Encode(#[source] rmp_serde::encode::Error),
    #[error("a frame cannot be decoded")]
    Decode(#[source] rmp_serde::decode::Error),
}

pub(super) async fn write_frame<T: Serialize>(
    writer: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), FrameError> {
    let body = rmp_serde::to_vec_named(value).map_err(FrameError::Encode)?;
    if body.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { bytes: body.len() });
    }
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLarge { bytes: body.len() })?;
    writer.write_u32(length).await?;
    writer.write_all(&body).await?;
    Ok(writer.flush().await?)
}

/// The next frame; none when the other side has closed the connection between two frames.
pub(super) async fn read_frame<T: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, FrameError> {
    let bytes = match reader.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { bytes });
    }
    // Grows as bytes arrive, so that a length alone reserves nothing.
    let mut body = Vec::new();
    reader.take(bytes as u64).read_to_end(&mut body).await?;
    if body.len() < bytes {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    rmp_serde::from_slice(&body).map(Some).map_err(FrameError::Decode)
}
