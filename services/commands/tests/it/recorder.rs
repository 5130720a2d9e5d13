//! A double that writes down what a service asks of the world: log, random source and mail, in order, without what differs by chance.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use omnirun_commands_api::mail::{Mail, MailError, SendMail};
use omnirun_events::log::{AppendError, Batch, Cursor, ReadError, Stored};
use omnirun_events::*;

/// The calls so far. Clones share them.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// Writes one down.
    pub fn note(&self, call: String) {
        self.0.lock().expect("no panics").push(call);
    }

    /// What was written down since the last call, in order.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panics"))
    }
}

/// What surrounds a service, recorded.
pub struct Recorded<T> {
    pub inner: T,
    pub recorder: Recorder,
}

/// A subject without its ids.
fn kind(subject: &Subject) -> String {
    let parts = subject.as_str().split('.').map(|part| if part.len() == 26 { "ID" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

#[async_trait]
impl<T: Read> Read for Recorded<T> {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        self.recorder.note(format!("read {log}"));
        self.inner.read(log, filter, after).await
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        self.recorder.note(format!("head of {log}"));
        self.inner.head(log).await
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        let found = self.inner.last(subject).await?;
        self.recorder.note(format!("last of {}: {}", kind(subject), found.is_some()));
        Ok(found)
    }
}

#[async_trait]
impl<T: Append> Append for Recorded<T> {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        for entry in batch.entries() {
            self.recorder.note(format!("append to {}, {} bytes", kind(&entry.subject), entry.record.len()));
        }
        self.inner.append_all(batch).await
    }
}

#[async_trait]
impl<T: SendMail> SendMail for Recorded<Arc<T>> {
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
        let length = mail.content.code().map(|code| code.reveal().len());
        self.recorder.note(format!("a mail with a code of {length:?}"));
        self.inner.send_mail(mail).await
    }
}
