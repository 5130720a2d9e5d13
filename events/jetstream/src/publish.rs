//! One try to store entries: a plain publish for one, an atomic batch for several. What became of an unclear one is
//! for `settle` to find out.
//!
//! The client library has no call for atomic batches; the headers are those of NATS ADR-50.

use async_nats::HeaderMap;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID,
};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::{Error, ErrorCode};
use bytes::Bytes;
use omnirun_events::log::Entry;
use omnirun_events::{CommitId, Sequence, Subject};

use crate::error::{Reason, Source};
use crate::server::Server;

/// Header with the commit's id, by which a retry is recognised for as long as the record is kept.
const COMMIT: &str = "Omnirun-Commit";

/// What a try came to.
pub(crate) enum Sent {
    /// Stored; the last entry is at this position and the others right before it.
    Stored(Sequence),
    /// Refused, with nothing stored by this try: an expectation did not hold, or the ids were seen before.
    Refused,
    /// The server takes no more; nothing was stored. What an operator can do.
    Full(String),
    /// Stored or not.
    Unknown(Source),
}

/// An entry as it goes over the wire.
pub(crate) struct Message {
    subject: Subject,
    record: Bytes,
    headers: HeaderMap,
}

impl Message {
    /// Takes some microseconds, so whoever has many makes each where it comes from.
    pub(crate) fn of(entry: &Entry) -> Self {
        Self { subject: entry.subject.clone(), record: entry.record.clone(), headers: headers(entry) }
    }
}

/// Tries once. The messages are of one log and of different subjects.
pub(crate) async fn send(server: &Server, mut messages: Vec<Message>) -> Sent {
    let limit = server.patience.answer;
    let sending = async {
        let Some(last) = messages.pop() else { return Err(PublishErrorKind::Other.into()) };
        if messages.is_empty() {
            publish(server, last).await
        } else {
            send_batch(server, messages, last).await
        }
    };
    match tokio::time::timeout(limit, sending).await {
        Ok(Ok(last)) => Sent::Stored(last),
        Ok(Err(error)) => classify(error),
        Err(_) => Sent::Unknown(Reason::NoAnswer(limit).into()),
    }
}

/// Positions of `count` entries that were stored together.
pub(crate) fn positions(last: Sequence, count: usize) -> Vec<Sequence> {
    let first = last.0.saturating_sub(count as u64 - 1);
    (first..=last.0).map(Sequence).collect()
}

/// The commit that a stored message belongs to.
pub(crate) fn commit_of(message: &StreamMessage) -> Option<CommitId> {
    message.headers.get(COMMIT)?.as_str().parse().ok()
}

fn headers(entry: &Entry) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, entry.expected.0.to_string());
    headers.insert(NATS_MESSAGE_ID, message_id(entry));
    headers.insert(COMMIT, entry.commit.to_string());
    headers
}

/// The server compares ids across a whole stream, and a commit may touch several subjects of it: an id for each.
fn message_id(entry: &Entry) -> String {
    CommitId::derive(entry.commit.as_bytes(), entry.subject.as_str()).to_string()
}

async fn publish(server: &Server, message: Message) -> Result<Sequence, PublishError> {
    let Message { subject, record, headers } = message;
    let message = PublishMessage::build().payload(record).headers(headers);
    let ack = server.context.send_publish(subject.as_str().to_owned(), message).await?.await?;
    Ok(Sequence(ack.sequence))
}

/// All but the last go without asking for an answer; the last one's answer is the batch's.
async fn send_batch(
    server: &Server,
    others: Vec<Message>,
    mut last: Message,
) -> Result<Sequence, PublishError> {
    let client = server.context.client();
    // An id of its own for each try: the server may still hold the beginning of an earlier one.
    let inbox = client.new_inbox();
    let id = inbox.rsplit('.').next().unwrap_or(&inbox);
    let count = others.len() + 1;
    for (index, mut message) in others.into_iter().enumerate() {
        number(&mut message.headers, id, index + 1);
        let subject = message.subject.as_str().to_owned();
        let sent = client.publish_with_headers(subject, message.headers, message.record).await;
        sent.map_err(|error| match error.kind() {
            async_nats::client::PublishErrorKind::MaxPayloadExceeded => {
                PublishErrorKind::MaxPayloadExceeded.into()
            }
            _ => PublishError::with_source(PublishErrorKind::Other, error),
        })?;
    }
    number(&mut last.headers, id, count);
    last.headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
    publish(server, last).await
}

/// Says which message of which batch this is.
fn number(headers: &mut HeaderMap, id: &str, sequence: usize) {
    headers.insert(NATS_BATCH_ID, id);
    headers.insert(NATS_BATCH_SEQUENCE, sequence.to_string());
}

fn classify(error: PublishError) -> Sent {
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return Sent::Full(
            "a record is larger than the server's max_payload; raise it in nats.conf".to_owned(),
        );
    }
    match code(&error) {
        // On three servers, and within batches, the conflict has a code of its own, which the client does not know as one.
        Some(
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
            | ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE,
        ) => Sent::Refused,
        Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => Sent::Full(
            "a record is larger than the stream's max_msg_size; run omnirun ops streams apply".to_owned(),
        ),
        Some(
            ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::STREAM_STORE_FAILED,
        ) => Sent::Full("give nats-server more room: its disk, or max_file_store in nats.conf".to_owned()),
        _ => Sent::Unknown(error.into()),
    }
}

fn code(error: &PublishError) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<Error>().map(Error::error_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stored_together_have_neighbouring_positions() {
        assert_eq!(positions(Sequence(7), 1), [Sequence(7)]);
        assert_eq!(positions(Sequence(7), 3), [Sequence(5), Sequence(6), Sequence(7)]);
    }
}
