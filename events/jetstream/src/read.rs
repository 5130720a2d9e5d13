//! [`Read`]: every answer comes from the leader of the stream.

use async_trait::async_trait;
use omnirun_events::log::{Cursor, ReadError, Stored};
use omnirun_events::{Filter, Log, Read, Sequence, Subject};

use crate::JetStreamLog;
use crate::cursor::StreamCursor;
use crate::error::unavailable;
use crate::server::stored;

#[async_trait]
impl Read for JetStreamLog {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        Ok(Box::new(StreamCursor::new(self.server.clone(), log, filter, after)))
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        self.server.head(log).await
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        let log = subject.log();
        let last = self.server.last_of(log, &Filter::exactly(subject)).await;
        let Some(message) = last.map_err(|error| unavailable(log, error))? else { return Ok(None) };
        stored(log, Sequence(message.sequence), &message.subject, message.payload)
    }
}
