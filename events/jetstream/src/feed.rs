//! The feed behind a cursor: an ordered push consumer, from a position on, until it breaks.
//!
//! The client library has one too. This one never restarts by itself: the cursor knows from where to go on (the library's goes back
//! to the stream's beginning if nothing had arrived yet), needs no right to delete consumers, and costs the server
//! nothing soon after its reader has gone.
//!
//! Nothing is lost without being noticed: every message carries its number in the feed, every heartbeat the number of the last
//! one, and silence or another connection ends the feed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::header::NATS_LAST_CONSUMER;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::push::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::{Client, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use omnirun_events::{Filter, Log, Sequence};
use tokio::task::coop::unconstrained;
use tokio::time::timeout;

use crate::error::Source;
use crate::server::Server;

/// How often the server says that there is nothing.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Silence after which the feed counts as broken, in looks at the connection.
const SILENT_LOOKS: u32 = 30;

/// How often a waiting feed looks whether its connection is still the same.
const LOOK: Duration = Duration::from_millis(100);

/// How long the server keeps a consumer whose reader has gone.
const ABANDONED: Duration = Duration::from_secs(5);

/// In a heartbeat: the server waits for an answer here, because the one it asked for was lost.
const STALLED: &str = "Nats-Consumer-Stalled";

/// Why a feed ended; the next one goes on from the reader's position.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the connection was made anew")]
    Reconnected,
    #[error("the connection has ended")]
    Closed,
    #[error("the server is silent")]
    Silent,
    #[error("messages were lost on the way")]
    Gap,
    #[error("a message does not say where it is from")]
    Foreign(#[source] Source),
}

pub(crate) struct Feed {
    server: Server,
    subscriber: Subscriber,
    /// Number of the last message of this feed.
    delivered: u64,
    /// Which connection of the client the feed belongs to.
    connection: u64,
    silent_looks: u32,
}

impl Feed {
    pub(crate) async fn open(
        server: &Server,
        log: Log,
        filter: &Filter,
        after: Sequence,
    ) -> Result<Self, Source> {
        let client = server.context.client();
        let connection = connection(&client);
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(inbox.clone()).await?;
        let config = Config {
            deliver_subject: inbox,
            filter_subject: filter.as_str().to_owned(),
            deliver_policy: match after {
                Sequence::NONE => DeliverPolicy::All,
                after => DeliverPolicy::ByStartSequence { start_sequence: after.next().0 },
            },
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            inactive_threshold: ABANDONED,
            num_replicas: 1,
            memory_storage: true,
            ..Config::default()
        };
        server.stream(log).await.create_consumer(config).await?;
        Ok(Self { server: server.clone(), subscriber, delivered: 0, connection, silent_looks: 0 })
    }

    /// The next message if it has arrived, without waiting.
    pub(crate) fn arrived(&mut self) -> Option<Result<(Sequence, Message), Broken>> {
        loop {
            // Without this, tokio would pretend every so often that nothing has arrived.
            let message = unconstrained(self.subscriber.next()).now_or_never()?;
            let Some(message) = message else { return Some(Err(Broken::Closed)) };
            if let Some(outcome) = self.accept(message).transpose() {
                return Some(outcome);
            }
        }
    }

    /// Waits for the next message. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<(Sequence, Message), Broken> {
        loop {
            let Ok(message) = timeout(LOOK, self.subscriber.next()).await else {
                self.look()?;
                continue;
            };
            if let Some(found) = self.accept(message.ok_or(Broken::Closed)?)? {
                return Ok(found);
            }
        }
    }

    fn look(&mut self) -> Result<(), Broken> {
        if connection(&self.server.context.client()) != self.connection {
            return Err(Broken::Reconnected);
        }
        self.silent_looks += 1;
        if self.silent_looks > SILENT_LOOKS { Err(Broken::Silent) } else { Ok(()) }
    }

    /// A record, or none if it was only the server saying something.
    fn accept(&mut self, message: async_nats::Message) -> Result<Option<(Sequence, Message)>, Broken> {
        self.silent_looks = 0;
        if message.status.is_some() {
            return self.heed(message).map(|()| None);
        }
        let message = Message { message, context: self.server.context.clone() };
        let info = message.info().map_err(Broken::Foreign)?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(Broken::Gap);
        }
        self.delivered = info.consumer_sequence;
        let sequence = Sequence(info.stream_sequence);
        Ok(Some((sequence, message)))
    }

    /// Answers when the server asks whether we keep up, and notices when what it sent is not what came.
    fn heed(&self, message: async_nats::Message) -> Result<(), Broken> {
        if message.status != Some(StatusCode::IDLE_HEARTBEAT) {
            return Ok(());
        }
        let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get_last(name));
        let stalled = header(STALLED).map(|subject| subject.as_str().into());
        if let Some(asked) = message.reply.clone().or(stalled) {
            let client = self.server.context.client();
            tokio::spawn(async move { client.publish(asked, bytes::Bytes::new()).await });
        }
        let last = header(NATS_LAST_CONSUMER.as_ref()).and_then(|last| last.as_str().parse().ok());
        if last.is_some_and(|last: u64| last != self.delivered) { Err(Broken::Gap) } else { Ok(()) }
    }
}

/// How often the client has connected so far.
fn connection(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}
