//! The way into a guest: HTTP/2 over TLS to the worker that has it, with a capability for that one sandbox.
//!
//! What goes this way is the users' own. It is passed on as it comes, in both directions, and kept nowhere.

mod pin;
mod pool;
pub(crate) mod relay;

use axum::http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use omnirun_events::id::{AccountId, HostId, SandboxId};
use omnirun_events::keys::Digest;
use omnirun_events::signing::Signer;
use omnirun_events::unit::{Clock, Seconds};
use omnirun_projections::sandboxes::State;
use omnirun_worker_api::CAPABILITY_HEADER;
use omnirun_worker_api::capability::{CAPABILITY_LIFE, Capability, Verb};

use crate::auth::Caller;
use crate::config::Times;
use crate::error::ApiError;
use crate::gateway::{Shared, duration};

pub(crate) use pool::Pool;

/// Why a body that is being passed on ends early. It holds none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body ended early")]
pub struct Cut;

/// A request's body on its way to a guest.
pub(crate) type GuestBody = UnsyncBoxBody<Bytes, Cut>;

/// A running sandbox and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub sandbox: SandboxId,
    pub account: AccountId,
    pub host: HostId,
    pub address: String,
    pub certificate: Digest,
}

/// What is asked of a guest's agent.
pub(crate) struct GuestRequest {
    pub verb: Verb,
    pub method: Method,
    /// The agent's path with its query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: GuestBody,
    /// How long the guest itself may take before it begins to answer; none = as long as the client waits.
    pub patience: Option<Seconds>,
}

impl GuestRequest {
    /// A request without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            verb: Verb::Use,
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: whole(Bytes::new()),
            patience: Some(Seconds(0)),
        }
    }

    /// The same request with a message as its body.
    pub fn with_json(mut self, message: &impl serde::Serialize) -> Self {
        let text = serde_json::to_vec(message)
            .expect("the agent's messages have string keys and no failing serialiser");
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = whole(text.into());
        self
    }
}

fn whole(bytes: Bytes) -> GuestBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The gateway's end of the data path.
pub(crate) struct DataPath {
    signer: Signer,
    clock: Clock,
    pool: Pool,
    guest: Seconds,
}

impl DataPath {
    pub fn new(signer: Signer, clock: Clock, times: &Times) -> Self {
        Self { signer, clock, pool: Pool::new(duration(times.connect)), guest: times.guest }
    }

    /// Lets connections go that nobody uses, for ever.
    pub async fn let_go_unused(&self) {
        self.pool.let_go_unused().await;
    }

    /// Asks the guest; answers when its answer begins. Dropping the future or the answer's body cancels the request there.
    pub async fn request(
        &self,
        target: &Target,
        wanted: GuestRequest,
    ) -> Result<hyper::Response<Incoming>, ApiError> {
        let GuestRequest { verb, method, path, headers, body, patience } = wanted;
        let mut sender = self.pool.sender(target).await?;
        let uri = format!("https://{}/{}{}", target.address, target.sandbox, path);
        let uri: Uri = uri.parse().map_err(|_| ApiError::internal())?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let capability =
            HeaderValue::from_str(&self.capability(target, verb)).map_err(|_| ApiError::internal())?;
        request.headers_mut().insert(CAPABILITY_HEADER, capability);
        let answer = sender.send_request(request);
        let answer = match patience {
            None => answer.await,
            Some(patience) => {
                let within = duration(Seconds(patience.0.saturating_add(self.guest.0)));
                tokio::time::timeout(within, answer).await.map_err(|_| guest_timeout())?
            }
        };
        answer.map_err(|_| guest_lost())
    }

    fn capability(&self, target: &Target, verb: Verb) -> String {
        let expires_at = (self.clock)().after(CAPABILITY_LIFE);
        let Target { sandbox, account, .. } = *target;
        Capability { sandbox, account, verbs: vec![verb], expires_at }.sign(&self.signer)
    }
}

const fn guest_timeout() -> ApiError {
    ApiError::new(
        axum::http::StatusCode::GATEWAY_TIMEOUT,
        "guest_timeout",
        "The sandbox did not answer in time.",
    )
}

const fn guest_lost() -> ApiError {
    ApiError::new(axum::http::StatusCode::BAD_GATEWAY, "guest_lost", "The connection to the sandbox broke.")
}

const fn sandbox_paused() -> ApiError {
    ApiError::new(
        axum::http::StatusCode::CONFLICT,
        "sandbox_paused",
        "The sandbox is paused; resume it with POST /sandboxes/{id}/resume first.",
    )
}

pub(crate) const fn sandbox_ended() -> ApiError {
    ApiError::new(axum::http::StatusCode::CONFLICT, "sandbox_ended", "The sandbox has ended.")
}

impl Shared {
    /// The caller's sandbox, if it runs: where it is. Another's is as unknown as one that never was.
    pub(crate) async fn target(&self, caller: &Caller, sandbox: SandboxId) -> Result<Target, ApiError> {
        self.own_sandbox(caller.account, sandbox).await?;
        self.target_of(caller.account, sandbox)
    }

    /// Where a sandbox of `account` is, as the directory knows now.
    pub(crate) fn target_of(&self, account: AccountId, sandbox: SandboxId) -> Result<Target, ApiError> {
        let not_ready = ApiError::new(
            axum::http::StatusCode::CONFLICT,
            "sandbox_not_ready",
            "The sandbox is not running yet.",
        );
        self.directory.view(|directory, _| {
            let found = directory.sandboxes.get(sandbox).ok_or_else(ApiError::not_found)?;
            match found.state {
                State::Running => {}
                State::Pausing | State::Paused => return Err(sandbox_paused()),
                State::Requested | State::Starting => return Err(not_ready),
                State::Stopping | State::Stopped(_) | State::Failed(_) => return Err(sandbox_ended()),
            }
            let host = found.host.and_then(|id| directory.hosts.get(id).map(|host| (id, host)));
            let Some((id, host)) = host else { return Err(pool::unreachable()) };
            let (address, certificate) = (host.offer.address.clone(), host.offer.certificate);
            Ok(Target { sandbox, account, host: id, address, certificate })
        })
    }

    /// Answers without an error if the sandbox is this account's. An unknown one may be new: then the gateway catches up once.
    pub(crate) async fn own_sandbox(&self, account: AccountId, sandbox: SandboxId) -> Result<(), ApiError> {
        let owner = || {
            self.directory
                .view(|directory, _| directory.sandboxes.get(sandbox).map(|sandbox| sandbox.account))
        };
        if owner().is_none() {
            self.catch_up().await?;
        }
        if owner() == Some(account) { Ok(()) } else { Err(ApiError::not_found()) }
    }
}
