//! A place in a stream: a few records are asked for one by one, more arrive by a feed.
//!
//! A feed costs the server a consumer until a few seconds after its reader has gone, so short reads (a command that folds one
//! subject) do without. So does every read of one subject to its end, however long: who may not follow a log may still look into it.

use std::time::{Duration, Instant};

use async_nats::jetstream::Message;
use async_trait::async_trait;
use omnirun_events::log::{Cursor, PAGE_RECORDS_MAX, Page, ReadError, Stored, Tail};
use omnirun_events::{Filter, Log, Sequence};
use tokio::time::timeout;

use crate::error::{Reason, unavailable};
use crate::feed::{Broken, Feed};
use crate::server::{Server, stored};
use crate::streams;

/// Records that a cursor asks for one by one before it opens a feed.
const STEPS: usize = 16;

/// How long a record that the leader has may take to arrive before we ask again: it may have been purged meanwhile.
const RECHECK: Duration = Duration::from_millis(500);

/// Pause before a feed that failed is opened again.
const REOPEN: Duration = Duration::from_millis(100);

pub(crate) struct StreamCursor {
    server: Server,
    log: Log,
    filter: Filter,
    /// Everything up to here that matches has been handed out.
    through: Sequence,
    /// The last record that matched when the leader was last asked.
    target: Sequence,
    steps_left: usize,
    feed: Option<Feed>,
}

impl StreamCursor {
    pub(crate) fn new(server: Server, log: Log, filter: Filter, after: Sequence) -> Self {
        let steps_left = if filter.is_exact() { usize::MAX } else { STEPS };
        Self { server, log, filter, through: after, target: Sequence::NONE, steps_left, feed: None }
    }

    /// Adds what has arrived, without waiting.
    fn arrived(&mut self, mut records: Vec<Stored>, limit: usize) -> Result<Page, ReadError> {
        while records.len() < limit
            && let Some(arrived) = self.feed.as_mut().and_then(Feed::arrived)
        {
            match arrived {
                Err(broken) => self.drop_feed(&broken),
                Ok((sequence, message)) => match self.take(sequence, message) {
                    Ok(record) => records.extend(record),
                    // What came before it is good and has been counted; the bad one is read again by the next call.
                    Err(_) if !records.is_empty() => break,
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(Page { records, through: self.through })
    }

    /// Counts the feed's next record as handed out, or as skipped; if it cannot be, the feed ends and the next one brings it again.
    fn take(&mut self, sequence: Sequence, message: Message) -> Result<Option<Stored>, ReadError> {
        let subject = message.subject.clone();
        let record = stored(self.log, sequence, &subject, message.message.payload)
            .inspect_err(|_| self.feed = None)?;
        self.through = sequence;
        Ok(record)
    }

    fn drop_feed(&mut self, broken: &Broken) {
        tracing::warn!(log = %self.log, reason = %broken, "the feed of a log broke off; it is opened again where it ended");
        self.feed = None;
    }

    /// Waits for the feed's next record. Dropping the future loses nothing: a message is taken and counted in one step.
    async fn wait(&mut self) -> Result<Stored, ReadError> {
        loop {
            if self.feed.is_none() {
                let opened = Feed::open(&self.server, self.log, &self.filter, self.through).await;
                self.feed = Some(opened.map_err(|error| unavailable(self.log, error))?);
            }
            let Some(feed) = &mut self.feed else { continue };
            match feed.next().await {
                Ok((sequence, message)) => {
                    if let Some(record) = self.take(sequence, message)? {
                        return Ok(record);
                    }
                }
                Err(broken) => {
                    self.drop_feed(&broken);
                    tokio::time::sleep(REOPEN).await;
                }
            }
        }
    }

    /// Asks the leader how far there is to go. Answers whether everything that matches has been handed out.
    async fn is_at_end(&mut self) -> Result<bool, ReadError> {
        // The head first: what is appended between the two questions must not count as handed out.
        let head = self.server.head(self.log).await?;
        let last = self.server.last_of(self.log, &self.filter).await;
        let last = last.map_err(|error| unavailable(self.log, error))?;
        self.target = last.map_or(Sequence::NONE, |message| Sequence(message.sequence));
        let is_at_end = self.target <= self.through;
        if is_at_end {
            self.through = self.through.max(head);
        }
        Ok(is_at_end)
    }

    /// Asks for records one by one, up to the target.
    async fn step(&mut self, limit: usize) -> Result<Page, ReadError> {
        let mut records: Vec<Stored> = Vec::new();
        let mut through = self.through;
        while records.len() < limit.min(self.steps_left) && through < self.target {
            let next = self.server.first_from(self.log, &self.filter, through.next()).await;
            let next = next.map_err(|error| unavailable(self.log, error))?;
            let Some(message) = next else {
                // Purged since the leader named it.
                through = self.target;
                break;
            };
            let sequence = Sequence(message.sequence);
            match stored(self.log, sequence, &message.subject, message.payload) {
                Ok(record) => records.extend(record),
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(error),
            }
            through = sequence;
        }
        self.steps_left -= records.len();
        self.through = through;
        Ok(Page { records, through })
    }

    async fn next_or_end(&mut self, limit: usize) -> Result<Page, ReadError> {
        let end = Instant::now() + self.server.patience.outcome;
        loop {
            if self.through >= self.target && self.is_at_end().await? {
                return Ok(Page { records: Vec::new(), through: self.through });
            }
            if self.feed.is_none() && self.steps_left > 0 {
                let page = self.step(limit).await?;
                if !page.records.is_empty() {
                    return Ok(page);
                }
                continue;
            }
            match timeout(RECHECK, self.wait()).await {
                Ok(first) => {
                    let first = first?;
                    return self.arrived(vec![first], limit);
                }
                Err(_) if Instant::now() >= end => return Err(unavailable(self.log, Reason::NoDelivery)),
                Err(_) => self.target = Sequence::NONE,
            }
        }
    }
}

#[async_trait]
impl Cursor for StreamCursor {
    async fn next(&mut self, limit: usize, tail: Tail) -> Result<Page, ReadError> {
        let limit = limit.clamp(1, PAGE_RECORDS_MAX);
        if !streams::may_hold(self.log, &self.filter) {
            if tail == Tail::Wait {
                return std::future::pending().await;
            }
            self.through = self.through.max(self.server.head(self.log).await?);
            return Ok(Page { records: Vec::new(), through: self.through });
        }
        let page = self.arrived(Vec::new(), limit)?;
        if !page.records.is_empty() {
            return Ok(page);
        }
        match tail {
            Tail::Return => self.next_or_end(limit).await,
            Tail::Wait => {
                let first = self.wait().await?;
                self.arrived(vec![first], limit)
            }
        }
    }
}
