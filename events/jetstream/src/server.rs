//! The connection as the other files use it: reads that the leader of a stream answers itself.
//!
//! Direct gets may be answered by a replica that is behind, so nothing here uses them.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{InfoError, LastRawMessageErrorKind, RawMessageError, Stream};
use async_nats::jetstream::{Context, Error, ErrorCode};
use omnirun_events::log::{Position, ReadError, Stored};
use omnirun_events::{Filter, Log, Sequence, Subject};

use crate::Replicas;
use crate::error::{Source, unavailable};
use crate::streams::wanted;

/// How patient this client is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For one answer of the server.
    pub(crate) answer: Duration,
    /// For the outcome of an append, tries included.
    pub(crate) outcome: Duration,
    /// How long a queue's member may be silent before its record goes to another.
    pub(crate) acknowledgement: Duration,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) context: Context,
    pub(crate) patience: Patience,
    /// Copies of each stream, as the operator chose.
    pub(crate) replicas: Replicas,
}

impl Server {
    /// The stream of a log, unasked: no round trip.
    pub(crate) async fn stream(&self, log: Log) -> Stream<()> {
        self.context.get_stream_no_info(log.to_string()).await.expect("the name of a log is a stream's name")
    }

    /// The first record from `from` on that `filter` takes.
    pub(crate) async fn first_from(
        &self,
        log: Log,
        filter: &Filter,
        from: Sequence,
    ) -> Result<Option<StreamMessage>, Source> {
        let stream = self.stream(log).await;
        let answer = stream.get_first_raw_message_by_subject(filter.as_str(), from.0.max(1)).await;
        self.found(log, answer).await
    }

    /// The last record that `filter` takes.
    pub(crate) async fn last_of(&self, log: Log, filter: &Filter) -> Result<Option<StreamMessage>, Source> {
        let stream = self.stream(log).await;
        let answer = stream.get_last_raw_message_by_subject(filter.as_str()).await;
        self.found(log, answer).await
    }

    /// Number of the last record ever stored.
    pub(crate) async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        let stream = self.stream(log).await;
        let info = match stream.get_info().await {
            Err(error) if log == Log::Auth && is_missing(&error) => {
                self.make_auth().await.map_err(|error| unavailable(log, error))?;
                stream.get_info().await
            }
            answer => answer,
        };
        Ok(Sequence(info.map_err(|error| unavailable(log, error))?.state.last_sequence))
    }

    async fn found(
        &self,
        log: Log,
        answer: Result<StreamMessage, RawMessageError>,
    ) -> Result<Option<StreamMessage>, Source> {
        match answer {
            Ok(message) => Ok(Some(message)),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(refusal)
                    if log == Log::Auth && refusal.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    self.make_auth().await.map(|()| None)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Makes AUTH, the one stream that is made without an operator's word: it is in memory, so a server that was restarted has lost
    /// it, and there is nothing on a disk that making it could destroy. Twice, or by two at once, changes nothing.
    pub(crate) async fn make_auth(&self) -> Result<(), Source> {
        self.context.create_stream(wanted(Log::Auth, self.replicas)).await?;
        tracing::info!(log = %Log::Auth, "the server had lost its log in memory, as it does at a restart; it is there again, empty");
        Ok(())
    }
}

fn is_missing(error: &InfoError) -> bool {
    let refusal = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    refusal.is_some_and(|refusal| refusal.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// The record in a message. None where a host may have filed it under a subject that is none: that is nobody's record, and no reason to stop
/// reading.
pub(crate) fn stored(
    log: Log,
    sequence: Sequence,
    subject: &str,
    record: bytes::Bytes,
) -> Result<Option<Stored>, ReadError> {
    match subject.parse::<Subject>() {
        Ok(subject) if subject.log() == log => Ok(Some(Stored { sequence, subject, record })),
        Err(_) if is_where_hosts_write(subject) => {
            tracing::error!(%log, position = sequence.0, "a host has filed something under a subject that is none");
            Ok(None)
        }
        _ => Err(foreign(log, sequence)),
    }
}

/// Whether the permissions in nats.conf let a worker publish there.
fn is_where_hosts_write(subject: &str) -> bool {
    let tokens: Vec<&str> = subject.split('.').collect();
    matches!(tokens[..], ["evt", _, "sandbox", _] | ["sys", "host", _] | ["usage", _, _, _])
}

pub(crate) fn foreign(log: Log, sequence: Sequence) -> ReadError {
    let what = "its subject is none of this log's".to_owned();
    ReadError::Corrupt { at: Position { log, sequence }, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_that_is_none_is_skipped_where_hosts_write_and_damage_elsewhere() {
        let read = |subject| stored(Log::Events, Sequence(1), subject, bytes::Bytes::new());
        for subject in ["evt.x.sandbox.y", "sys.host.x"] {
            assert!(matches!(read(subject), Ok(None)), "{subject}");
        }
        let foreign = ["evt.x.account.self", "evt.x.sandbox", "sys.x", "auth.x.used", "x"];
        for subject in foreign {
            assert!(matches!(read(subject), Err(ReadError::Corrupt { .. })), "{subject}");
        }
        assert!(matches!(read("sys.registry"), Ok(Some(_))));
    }
}
