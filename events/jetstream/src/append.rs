//! [`Append`]: one entry through the log's committer, several as one batch of their own.

use async_trait::async_trait;
use omnirun_events::log::{AppendError, Batch};
use omnirun_events::{Append, Sequence};

use crate::JetStreamLog;
use crate::error::Reason;
use crate::settle::{self, Begin};

#[async_trait]
impl Append for JetStreamLog {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        let log = batch.log();
        let Some(committer) = self.committers.get(&log) else {
            return Err(AppendError::Unknown { log, source: Reason::NotOpened.into() });
        };
        if let [entry] = batch.entries() {
            return committer.append(entry.clone()).await.map(|position| vec![position]);
        }
        let positions = settle::append(&self.server, batch.entries(), Begin::Send).await?;
        for (entry, position) in batch.entries().iter().zip(&positions) {
            committer.known().note(&entry.subject, *position);
        }
        Ok(positions)
    }
}
