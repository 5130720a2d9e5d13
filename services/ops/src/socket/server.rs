//! The answering side, which `omnirun up` runs.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use omnirun_commands_api::{Commands, Envelope, Reply};
use omnirun_events::envelope::Actor;
use omnirun_events::log::{Cursor, Read, ReadError};
use omnirun_projections::Fold;
use omnirun_runner::{Live, Snapshot};
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::SOCKET_NAME;
use super::protocol::{
    Answer, FrameError, PAGE_RECORDS_MAX, Request, WireError, WireSendError, read_frame, write_frame,
};

/// Connections at once. One operator needs two or three.
const CONNECTIONS_MAX: usize = 32;

/// A read model whose digest an operator may compare with the log's.
pub trait View: Send + Sync {
    /// Its name, as `ops replay` takes it.
    fn name(&self) -> &'static str;

    /// Its positions and digest, taken together.
    fn snapshot(&self) -> Snapshot;
}

impl<F: Fold> View for Live<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn snapshot(&self) -> Snapshot {
        Live::snapshot(self)
    }
}

/// A socket that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the socket {}; its path may be too long (107 bytes) or its directory not writable", path.display())]
pub struct BindError {
    /// Where.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The server of `<data>/ops.sock`. Dropping it removes the socket and ends its connections.
pub struct OpsServer {
    path: PathBuf,
    listener: UnixListener,
    owner: u32,
    shared: Arc<Shared>,
}

struct Shared {
    reader: Arc<dyn Read>,
    views: Vec<Arc<dyn View>>,
    commands: CommandsSlot,
}

/// Where the process puts its commands service once that has started; until then operators are told that there is none.
#[derive(Clone, Default)]
pub struct CommandsSlot(Arc<OnceLock<Arc<dyn Commands>>>);

impl CommandsSlot {
    /// Puts it there. The first one stays.
    pub fn fill(&self, commands: Arc<dyn Commands>) {
        let _ = self.0.set(commands);
    }
}

impl OpsServer {
    /// Makes the socket in `data`. One that a killed process left there is replaced: the caller holds the store's lock, so nobody
    /// listens on it.
    pub fn bind(data: &Path, reader: Arc<dyn Read>, views: Vec<Arc<dyn View>>) -> Result<Self, BindError> {
        let path = data.join(SOCKET_NAME);
        let (listener, owner) = listen(&path).map_err(|source| BindError { path: path.clone(), source })?;
        let commands = CommandsSlot::default();
        Ok(Self { path, listener, owner, shared: Arc::new(Shared { reader, views, commands }) })
    }

    /// Where the commands service goes that operators' commands are handed to.
    pub fn commands(&self) -> CommandsSlot {
        self.shared.commands.clone()
    }

    /// Answers until it is dropped.
    pub async fn serve(self) {
        let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let permit = limit.clone().acquire_owned().await.expect("the semaphore is never closed");
            while connections.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "ops.sock: a connection failed");
                    // Out of descriptors is the usual reason; it passes when another connection ends.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = stream.peer_cred().map(|peer| peer.uid());
            if !matches!(peer, Ok(uid) if uid == self.owner || uid == 0) {
                continue;
            }
            let shared = self.shared.clone();
            connections.spawn(async move {
                // A client that breaks off or speaks another protocol is disconnected; it knows why better than we do.
                drop(shared.serve(stream).await);
                drop(permit);
            });
        }
    }
}

impl Drop for OpsServer {
    fn drop(&mut self) {
        // If it stays, the next start replaces it.
        drop(fs::remove_file(&self.path));
    }
}

/// Listens under another name first, so that the socket has its mode before anybody finds it.
fn listen(path: &Path) -> io::Result<(UnixListener, u32)> {
    let unready = path.with_extension("new");
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unready)?;
    fs::set_permissions(&unready, fs::Permissions::from_mode(0o600))?;
    let owner = fs::metadata(&unready)?.uid();
    fs::rename(&unready, path)?;
    Ok((listener, owner))
}

impl Shared {
    async fn serve(&self, mut stream: UnixStream) -> Result<(), FrameError> {
        let mut cursor = None;
        while let Some(request) = read_frame(&mut stream).await? {
            let answer = tokio::select! {
                answer = self.answer(request, &mut cursor) => answer,
                // Nothing is sent before the answer: a byte or an end here means that the client has gone.
                _ = stream.read_u8() => return Ok(()),
            };
            let answer = answer.unwrap_or_else(|error| Answer::Failed(error.into()));
            write_frame(&mut stream, &answer).await?;
        }
        Ok(())
    }

    async fn answer(
        &self,
        request: Request,
        cursor: &mut Option<Box<dyn Cursor>>,
    ) -> Result<Answer, ReadError> {
        Ok(match request {
            Request::Head(log) => Answer::Head(self.reader.head(log).await?),
            Request::Last(subject) => Answer::Last(self.reader.last(&subject).await?.map(Into::into)),
            Request::Open { log, filter, after } => {
                *cursor = Some(self.reader.read(log, filter, after).await?);
                Answer::Opened
            }
            Request::Next { limit, tail } => match cursor {
                Some(cursor) => {
                    Answer::Page(cursor.next(limit.min(PAGE_RECORDS_MAX), tail.into()).await?.into())
                }
                None => Answer::Failed(WireError::Misused),
            },
            Request::Views => Answer::Views(self.views.iter().map(|view| view.name().to_owned()).collect()),
            Request::Snapshot(name) => Answer::Snapshot(
                self.views.iter().find(|view| view.name() == name).map(|view| view.snapshot()),
            ),
            Request::Command(envelope) => Answer::Command(Box::new(self.command(*envelope).await)),
        })
    }

    /// Whoever may open the socket is an operator, and is called one whatever they say.
    async fn command(&self, envelope: Envelope) -> Result<Reply, WireSendError> {
        let commands = self.commands.0.get().ok_or(WireSendError::NoResponders)?;
        Ok(commands.send(Envelope { actor: Actor::Operator, ..envelope }).await?)
    }
}
