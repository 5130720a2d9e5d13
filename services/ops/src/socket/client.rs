//! The asking side: [`Read`] and [`Commands`] over the socket.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use omnirun_commands_api::{Commands, Envelope, Reply, SendError};
use omnirun_events::log::{Cursor, Page, Read, ReadError, Sequence, Stored, Tail};
use omnirun_events::subject::{Filter, Log, Subject};
use omnirun_runner::Snapshot;
use tokio::net::UnixStream;

use super::SOCKET_NAME;
use super::protocol::{Answer, FrameError, PAGE_RECORDS_MAX, Request, WireError, read_frame, write_frame};

/// Reads the logs that a running `omnirun up` holds. Clones share nothing but the path.
#[derive(Debug, Clone)]
pub struct SocketRead {
    path: PathBuf,
}

impl SocketRead {
    /// The reader behind the socket of this data directory, if somebody answers there.
    pub async fn connect(data: &Path) -> Option<Self> {
        let path = data.join(SOCKET_NAME);
        UnixStream::connect(&path).await.ok().map(|_| Self { path })
    }

    /// Names of the read models whose digests can be asked for.
    pub async fn views(&self) -> Result<Vec<String>, ReadError> {
        match self.ask(Log::Events, &Request::Views).await? {
            Answer::Views(views) => Ok(views),
            _ => Err(misused(Log::Events)),
        }
    }

    /// Positions and digest of a live read model; none if there is none of this name.
    pub async fn snapshot(&self, view: &str) -> Result<Option<Snapshot>, ReadError> {
        match self.ask(Log::Events, &Request::Snapshot(view.to_owned())).await? {
            Answer::Snapshot(snapshot) => Ok(snapshot),
            _ => Err(misused(Log::Events)),
        }
    }

    async fn ask(&self, log: Log, request: &Request) -> Result<Answer, ReadError> {
        let mut stream = open(&self.path, log).await?;
        exchange(&mut stream, log, request).await
    }
}

async fn open(path: &Path, log: Log) -> Result<UnixStream, ReadError> {
    UnixStream::connect(path).await.map_err(|source| unavailable(log, source.into()))
}

async fn exchange(stream: &mut UnixStream, log: Log, request: &Request) -> Result<Answer, ReadError> {
    write_frame(stream, request).await.map_err(|source| unavailable(log, source))?;
    match read_frame(stream).await {
        Ok(Some(Answer::Failed(error))) => Err(error.into_read_error(log)),
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(ReadError::Unavailable { log, source: "the other side has gone".into() }),
        Err(source) => Err(unavailable(log, source)),
    }
}

#[async_trait]
impl Commands for SocketRead {
    /// The running process sends it on as an operator's.
    async fn send(&self, envelope: Envelope) -> Result<Reply, SendError> {
        let exchange = |source: FrameError| SendError::Exchange { source: Box::new(source) };
        let mut stream = UnixStream::connect(&self.path).await.map_err(|error| exchange(error.into()))?;
        write_frame(&mut stream, &Request::Command(Box::new(envelope))).await.map_err(exchange)?;
        match read_frame(&mut stream).await.map_err(exchange)? {
            Some(Answer::Command(result)) => Ok((*result)?),
            _ => Err(SendError::Exchange { source: "another build answers the socket".into() }),
        }
    }
}

fn unavailable(log: Log, source: FrameError) -> ReadError {
    ReadError::Unavailable { log, source: Box::new(source) }
}

fn misused(log: Log) -> ReadError {
    WireError::Misused.into_read_error(log)
}

#[async_trait]
impl Read for SocketRead {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        Ok(Box::new(SocketCursor { path: self.path.clone(), log, filter, after, stream: None }))
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        match self.ask(log, &Request::Head(log)).await? {
            Answer::Head(head) => Ok(head),
            _ => Err(misused(log)),
        }
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        match self.ask(subject.log(), &Request::Last(subject.clone())).await? {
            Answer::Last(last) => Ok(last.map(Into::into)),
            _ => Err(misused(subject.log())),
        }
    }
}

/// A cursor with a connection of its own. The connection is held only between calls: a dropped `next` takes it along, unanswered
/// question and all, and the call after it connects anew from where the last page ended.
struct SocketCursor {
    path: PathBuf,
    log: Log,
    filter: Filter,
    after: Sequence,
    stream: Option<UnixStream>,
}

impl SocketCursor {
    async fn opened(&mut self) -> Result<UnixStream, ReadError> {
        if let Some(stream) = self.stream.take() {
            return Ok(stream);
        }
        let mut stream = open(&self.path, self.log).await?;
        let request = Request::Open { log: self.log, filter: self.filter.clone(), after: self.after };
        match exchange(&mut stream, self.log, &request).await? {
            Answer::Opened => Ok(stream),
            _ => Err(misused(self.log)),
        }
    }
}

#[async_trait]
impl Cursor for SocketCursor {
    async fn next(&mut self, limit: usize, tail: Tail) -> Result<Page, ReadError> {
        let mut stream = self.opened().await?;
        let request = Request::Next { limit: limit.min(PAGE_RECORDS_MAX), tail: tail.into() };
        match exchange(&mut stream, self.log, &request).await? {
            Answer::Page(page) => {
                let page = Page::from(page);
                self.after = page.through;
                self.stream = Some(stream);
                Ok(page)
            }
            _ => Err(misused(self.log)),
        }
    }
}
