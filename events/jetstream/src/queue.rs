//! [`Queue`]: a durable pull consumer per group, one record in hand per member.
//!
//! A server on its own writes a group's progress down a moment after it has confirmed it. If it is killed in that moment (an
//! ordinary stop waits), acknowledged records come again: whoever handles one must notice that it is done, as a claim with
//! expected 0 does. Nothing is ever left out.

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{AckKind, Message};
use async_trait::async_trait;
use futures_util::StreamExt;
use omnirun_events::log::{Consumer, ConsumerName, Delivery, ReadError, Receipt};
use omnirun_events::{Filter, Log, Millis, Queue, Sequence};
use std::time::Duration;

use crate::JetStreamLog;
use crate::connect::duration;
use crate::error::{Source, unavailable};
use crate::server::{Server, foreign, stored};

/// How long one request for a record stands at the server before it is made again.
const PULL: Duration = Duration::from_secs(20);

/// How often the server says that it is still there while no record comes.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Pause before a broken request is made again.
const REOPEN: Duration = Duration::from_millis(200);

#[async_trait]
impl Queue for JetStreamLog {
    async fn consume(
        &self,
        log: Log,
        filter: Filter,
        name: ConsumerName,
    ) -> Result<Box<dyn Consumer>, ReadError> {
        let group = join(&self.server, log, &filter, &name).await.map_err(|error| unavailable(log, error))?;
        Ok(Box::new(Member { log, group, requests: None }))
    }
}

/// The group's consumer, made by the first to join.
async fn join(
    server: &Server,
    log: Log,
    filter: &Filter,
    name: &ConsumerName,
) -> Result<PullConsumer, Source> {
    let stream = server.stream(log).await;
    let config = pull::Config {
        durable_name: Some(name.0.to_owned()),
        filter_subject: filter.as_str().to_owned(),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: server.patience.acknowledgement,
        // Again and again until somebody acknowledges it: who gives up on a record says so in the log.
        max_deliver: -1,
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    if let Ok(consumer) = stream.get_consumer(name.0).await {
        return Ok(consumer);
    }
    match stream.create_consumer_strict(config).await {
        Ok(consumer) => Ok(consumer),
        // Two joined at once and the other was first, perhaps with another filter.
        Err(error) => stream.get_consumer(name.0).await.map_err(|_| error.into()),
    }
}

struct Member {
    log: Log,
    group: PullConsumer,
    requests: Option<pull::Stream>,
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> Result<Delivery, ReadError> {
        loop {
            let requests = match &mut self.requests {
                Some(requests) => requests,
                none => {
                    let opened = open(&self.group).await.map_err(|error| unavailable(self.log, error))?;
                    none.insert(opened)
                }
            };
            match requests.next().await {
                Some(Ok(message)) => return delivery(self.log, message),
                failed => {
                    self.requests = None;
                    let error = failed.and_then(Result::err).map(|error| error.to_string());
                    tracing::warn!(log = %self.log, error, "the request for a queue's next record broke off and is made again");
                    tokio::time::sleep(REOPEN).await;
                }
            }
        }
    }
}

/// One record a request, so that a member never holds what it is not handling.
async fn open(group: &PullConsumer) -> Result<pull::Stream, Source> {
    let stream = group.stream().max_messages_per_batch(1).expires(PULL).heartbeat(HEARTBEAT);
    Ok(stream.messages().await?)
}

fn delivery(log: Log, message: Message) -> Result<Delivery, ReadError> {
    let (sequence, delivered) = match message.info() {
        Ok(info) => (Sequence(info.stream_sequence), info.delivered),
        Err(error) => return Err(unavailable(log, error)),
    };
    let (message, acker) = message.split();
    let stored = stored(log, sequence, &message.subject, message.payload)?;
    let stored = stored.ok_or_else(|| foreign(log, sequence))?;
    let attempt = u32::try_from(delivered).unwrap_or(u32::MAX);
    Ok(Delivery { stored, attempt, receipt: Box::new(Answer { log, acker }) })
}

struct Answer {
    log: Log,
    acker: Acker,
}

impl Answer {
    /// Waits until the server has taken the answer.
    async fn say(&self, kind: AckKind) -> Result<(), ReadError> {
        self.acker.double_ack_with(kind).await.map_err(|error| unavailable(self.log, error))
    }
}

#[async_trait]
impl Receipt for Answer {
    async fn acknowledge(self: Box<Self>) -> Result<(), ReadError> {
        self.say(AckKind::Ack).await
    }

    async fn retry_after(self: Box<Self>, delay: Millis) -> Result<(), ReadError> {
        self.say(AckKind::Nak(Some(duration(delay)))).await
    }

    async fn in_progress(&self) -> Result<(), ReadError> {
        self.say(AckKind::Progress).await
    }
}
