//! The way to the log, which a test can cut: nothing is answered and nothing arrives until it is joined again.

use std::sync::Arc;

use async_trait::async_trait;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Cursor, Page, Read, ReadError, Sequence, Stored, Tail};
use omnirun_events::subject::{Filter, Log, Subject};
use tokio::sync::watch;

/// The memory log behind a cable. Clones share the cable.
#[derive(Clone)]
pub struct Cable {
    log: MemoryLog,
    is_joined: Arc<watch::Sender<bool>>,
}

impl Cable {
    pub fn new(log: MemoryLog) -> Self {
        Self { log, is_joined: Arc::new(watch::Sender::new(true)) }
    }

    /// What is written from now on reaches nobody, and nobody is told so.
    pub fn cut(&self) {
        self.is_joined.send_replace(false);
    }

    pub fn join(&self) {
        self.is_joined.send_replace(true);
    }

    fn check(&self, log: Log) -> Result<(), ReadError> {
        let cut = || ReadError::Unavailable { log, source: "the cable is cut".into() };
        self.is_joined.borrow().then_some(()).ok_or_else(cut)
    }
}

#[async_trait]
impl Read for Cable {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        self.check(log)?;
        let cursor = self.log.read(log, filter, after).await?;
        Ok(Box::new(Behind { cursor, is_joined: self.is_joined.subscribe() }))
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        self.check(log)?;
        self.log.head(log).await
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        self.check(subject.log())?;
        self.log.last(subject).await
    }
}

struct Behind {
    cursor: Box<dyn Cursor>,
    is_joined: watch::Receiver<bool>,
}

#[async_trait]
impl Cursor for Behind {
    async fn next(&mut self, limit: usize, tail: Tail) -> Result<Page, ReadError> {
        let page = self.cursor.next(limit, tail).await?;
        // Held back in silence, as a server that has gone does it. A world that is over holds nothing back.
        drop(self.is_joined.wait_for(|is_joined| *is_joined).await);
        Ok(page)
    }
}
