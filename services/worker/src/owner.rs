//! Talking to the owner process of a guest: HTTP/2 over its socket, one connection that all requests share.
//!
//! The messages are in `omnirun_vmm_api::owner`. Starting the process is in [`spawn`].

pub mod spawn;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use omnirun_agent_api::window;
use omnirun_vmm_api::owner::{self as api, Claim, EndReason, Kill, NewEnd, Status};
use rustix::process::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Any body on its way to an owner process.
pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Bytes of an answer that the worker reads itself, at most; relayed ones are streams.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long an owner process may take to answer about itself or to personalise its guest: longer than it gives its guest, 20 s.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(25);

/// How long writing a template's snapshot may take: some hundred MiB to a slow disk.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(120);

/// An owner process could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// Its socket cannot be reached: it has not opened it yet, or it is gone.
    #[error("cannot connect to the owner process")]
    Connect(#[source] std::io::Error),
    /// The connection broke.
    #[error("cannot talk to the owner process")]
    Talk(#[source] hyper::Error),
    /// No answer in time.
    #[error("the owner process did not answer in time")]
    Silent,
    /// It said no.
    #[error("the owner process refused with {0}")]
    Refused(StatusCode),
    /// It answered something else.
    #[error("the owner process's answer makes no sense")]
    Nonsense,
}

/// A connection to the owner process of one guest. Clones share it.
#[derive(Clone)]
pub struct Owner {
    requests: http2::SendRequest<Body>,
    pid: Option<Pid>,
}

/// Connects. The receiver hears when the connection has ended, which is when the owner process has.
pub async fn connect(socket: &Path) -> Result<(Owner, oneshot::Receiver<()>), OwnerError> {
    let stream = UnixStream::connect(socket).await.map_err(OwnerError::Connect)?;
    let pid = stream.peer_cred().map_err(OwnerError::Connect)?.pid().and_then(Pid::from_raw);
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(window::STREAM)
        .initial_connection_window_size(window::SESSION)
        .max_send_buf_size(window::STREAM as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(OwnerError::Talk)?;
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        // How it ended does not matter: whether the guest lives is asked of its lock.
        let _ = connection.await;
        let _ = tell.send(());
    });
    Ok((Owner { requests, pid }, told))
}

impl Owner {
    /// Who listens at the socket, by the kernel's word (unix(7), SO_PEERCRED): the keeper of an owner in a jail, which takes that along when it
    /// ends. What a process behind it says of itself is not believed: a guest may have taken it over.
    pub fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Sends a request and gives back the head of its answer, the body still on its way. Dropping either resets the stream, which the
    /// guest sees.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, OwnerError> {
        let mut requests = self.requests.clone();
        requests.ready().await.map_err(OwnerError::Talk)?;
        requests.send_request(request).await.map_err(OwnerError::Talk)
    }

    /// What it says about itself and its guest.
    pub async fn status(&self) -> Result<Status, OwnerError> {
        self.ask("GET", api::STATUS, &(), ANSWER_WAIT_MAX).await
    }

    /// Lets a guest start that waits for it; it runs when this returns.
    pub async fn start(&self) -> Result<(), OwnerError> {
        self.tell(api::START, &(), ANSWER_WAIT_MAX).await
    }

    /// Gives the idle guest to a sandbox. The same sandbox again is fine.
    pub async fn claim(&self, claim: &Claim) -> Result<(), OwnerError> {
        let _: api::Claimed = self.ask("POST", api::CLAIM, claim, ANSWER_WAIT_MAX).await?;
        Ok(())
    }

    /// Moves the end.
    pub async fn set_end(&self, end: NewEnd) -> Result<(), OwnerError> {
        self.tell(api::END, &end, ANSWER_WAIT_MAX).await
    }

    /// Has the guest stand still. Twice is once.
    pub async fn pause(&self) -> Result<(), OwnerError> {
        self.tell(api::PAUSE, &(), ANSWER_WAIT_MAX).await
    }

    /// Lets it go on. Twice is once.
    pub async fn resume(&self) -> Result<(), OwnerError> {
        self.tell(api::RESUME, &(), ANSWER_WAIT_MAX).await
    }

    /// Ends the guest; when this returns, it is reaped and its files are gone.
    pub async fn kill(&self, reason: EndReason, within: Duration) -> Result<(), OwnerError> {
        self.tell(api::KILL, &Kill { reason }, within).await
    }

    /// Makes the template's snapshot of this guest, which ends with it.
    pub async fn snapshot(&self) -> Result<(), OwnerError> {
        self.tell(api::SNAPSHOT, &(), SNAPSHOT_WAIT_MAX).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        message: &impl Serialize,
        within: Duration,
    ) -> Result<T, OwnerError> {
        let text = self.exchange(method, path, message, within).await?;
        serde_json::from_slice(&text).map_err(|_| OwnerError::Nonsense)
    }

    async fn tell(&self, path: &str, message: &impl Serialize, within: Duration) -> Result<(), OwnerError> {
        self.exchange("POST", path, message, within).await.map(drop)
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        message: &impl Serialize,
        within: Duration,
    ) -> Result<Bytes, OwnerError> {
        let text = serde_json::to_vec(message).map_err(|_| OwnerError::Nonsense)?;
        // `()` is JSON's null; the owner process takes an empty body for a message without fields.
        let body = if text == b"null" { Bytes::new() } else { text.into() };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://owner{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body).map_err(|never| match never {}).boxed_unsync())
            .expect("a fixed method, a fixed path and a fixed header are a request");
        let asked = async {
            let answer = self.send(request).await?;
            let status = answer.status();
            if !status.is_success() {
                return Err(OwnerError::Refused(status));
            }
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok(body.map_err(|_| OwnerError::Nonsense)?.to_bytes())
        };
        tokio::time::timeout(within, asked).await.map_err(|_| OwnerError::Silent)?
    }
}
