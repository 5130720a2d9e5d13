//! The one HTTP/2 connection to the guest's agent.

use std::{io, os::unix::net::UnixStream, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http2, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use omnirun_agent_api::{Personalise, Personalised, Refusal, SetClock, UnixMillis, route, window};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::PLANTED_BUG;

/// Any body on its way to the agent.
pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The longest header list that a guest may send; its agent's own are under a kilobyte.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// The longest answer of the agent that this process reads itself; others are relayed as streams.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long an answer to this process may take once the agent has been heard.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// A connection that may be cloned; requests share it.
#[derive(Clone)]
pub struct Agent(http2::SendRequest<Body>);

/// The agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The port could not be used.
    #[error("cannot use the agent's port")]
    Port(#[source] io::Error),
    /// The connection broke, or the agent does not speak HTTP/2.
    #[error("cannot talk to the agent")]
    Talk(#[source] hyper::Error),
    /// No answer in time.
    #[error("the agent did not answer in time")]
    Silent,
    /// It said no.
    #[error("the agent refused with {status}: {refusal}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        refusal: Refusal,
    },
    /// It answered something else.
    #[error("the agent's answer makes no sense")]
    Nonsense,
}

/// Opens the connection. The receiver hears when it has ended.
pub async fn connect(port: UnixStream) -> Result<(Agent, oneshot::Receiver<()>), AgentError> {
    port.set_nonblocking(true).map_err(AgentError::Port)?;
    let port = tokio::net::UnixStream::from_std(port).map_err(AgentError::Port)?;
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(window::STREAM)
        .initial_connection_window_size(window::SESSION)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(window::STREAM as usize)
        .handshake(TokioIo::new(port))
        .await
        .map_err(AgentError::Talk)?;
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let _ = connection.await;
        let _ = tell.send(());
    });
    Ok((Agent(requests), told))
}

impl Agent {
    /// Sends a request and gives back the head of the answer, the body still on its way. Dropping either resets the
    /// stream, which the agent sees.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, AgentError> {
        let mut requests = self.0.clone();
        requests.ready().await.map_err(AgentError::Talk)?;
        requests.send_request(request).await.map_err(AgentError::Talk)
    }

    /// Waits for the first answer of a booting guest: what is sent before it listens waits in the port.
    pub async fn wait_alive(&self, limit: Duration) -> Result<(), AgentError> {
        let request = message("GET", route::HEALTH, Bytes::new());
        let answer =
            tokio::time::timeout(limit, self.send(request)).await.map_err(|_| AgentError::Silent)??;
        if answer.status() == StatusCode::OK { Ok(()) } else { Err(AgentError::Nonsense) }
    }

    /// Lets a guest that is to be snapshotted run what every guest runs first.
    pub async fn warm(&self) -> Result<(), AgentError> {
        self.tell(route::WARM, Bytes::new()).await
    }

    /// Sets the clock of a guest that was paused.
    pub async fn set_clock(&self, now: UnixMillis) -> Result<(), AgentError> {
        let text = serde_json::to_vec(&SetClock { now }).map_err(|_| AgentError::Nonsense)?;
        self.tell(route::CLOCK, text.into()).await
    }

    async fn tell(&self, path: &str, body: Bytes) -> Result<(), AgentError> {
        let asked = self.send(message("POST", path, body));
        let answer = tokio::time::timeout(ANSWER_WAIT_MAX, asked).await.map_err(|_| AgentError::Silent)??;
        if answer.status().is_success() { Ok(()) } else { Err(AgentError::Nonsense) }
    }

    /// Makes the guest different from all others.
    pub async fn personalise(&self, wish: &Personalise) -> Result<Personalised, AgentError> {
        let text = serde_json::to_vec(wish).map_err(|_| AgentError::Nonsense)?;
        let request = message("POST", route::PERSONALISE, text.into());
        let asked = async { read(self.send(request).await?).await };
        tokio::time::timeout(ANSWER_WAIT_MAX, asked).await.map_err(|_| AgentError::Silent)?
    }
}

fn message(method: &str, path: &str, body: Bytes) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("http://agent{path}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body).map_err(|never| match never {}).boxed_unsync())
        .expect("a fixed method, a fixed path and a fixed header are a request")
}

async fn read<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, AgentError> {
    let status = answer.status();
    if PLANTED_BUG {
        // Planted: room for as much as the guest announces.
        let announced = answer.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let announced = announced.and_then(|length| length.parse().ok()).unwrap_or(0);
        std::hint::black_box(Vec::<u8>::with_capacity(announced));
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let text = body.map_err(|_| AgentError::Nonsense)?.to_bytes();
    if status == StatusCode::OK {
        return serde_json::from_slice(&text).map_err(|_| AgentError::Nonsense);
    }
    let refusal = serde_json::from_slice(&text).map_err(|_| AgentError::Nonsense)?;
    Err(AgentError::Refused { status, refusal })
}
