//! The owner's socket: HTTP/2 without TLS, for the worker alone.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixListener as StdListener},
    path::Path,
    sync::Arc,
    time::Instant,
};

use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use omnirun_agent_api::{Personalise, Private, window};
use omnirun_vmm_api::{
    Purpose,
    owner::{self as api, AGENT, Claim, Claimed, EndReason, Kill, NewEnd, SOCKET, Stage, StartWhen},
};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use crate::{
    agent::AgentError,
    answer::{Body, Handled, No, internal, json, nothing, read, refusal},
    clock,
    owner::{Ending, Owner, Tenancy},
    relay::relay,
    snapshot,
    stopwatch::Stopwatch,
};

/// Opens the socket: for this user only, from its first moment on, since the directory is too.
pub fn listen(state_dir: &Path) -> io::Result<StdListener> {
    let path = state_dir.join(SOCKET);
    let _ = fs::remove_file(&path);
    let listener = StdListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket for ever.
pub async fn serve(owner: Arc<Owner>, listener: UnixListener) {
    loop {
        // Accepting fails only for want of descriptors; those who wait are accepted when some are free.
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(session(owner.clone(), stream))),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection to its end.
pub async fn session(owner: Arc<Owner>, stream: UnixStream) {
    let counted = owner.clone();
    counted.sessions.send_modify(|count| *count += 1);
    let service = service_fn(move |request| {
        let owner = owner.clone();
        async move { Ok::<_, Infallible>(answer(owner, request).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(window::STREAMS)
        .initial_stream_window_size(window::STREAM)
        .initial_connection_window_size(window::SESSION)
        .max_send_buf_size(window::STREAM as usize)
        .serve_connection(TokioIo::new(stream), service);
    // However the worker goes away, the guest stays: for as long as a worker may be away.
    let _ = served.await;
    counted.sessions.send_modify(|count| *count -= 1);
}

async fn answer(owner: Arc<Owner>, request: Request<Incoming>) -> Response<Body> {
    route(owner, request).await.unwrap_or_else(refusal)
}

async fn route(owner: Arc<Owner>, request: Request<Incoming>) -> Handled {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path.strip_prefix(AGENT).is_some_and(|rest| rest.starts_with('/')) {
        return relay(&owner, parts, body).await;
    }
    match (parts.method.as_str(), path) {
        ("GET", api::STATUS) => Ok(json(&owner.status().await)),
        ("POST", api::START) => start(&owner).await,
        ("POST", api::CLAIM) => {
            let wish = read(body).await?;
            whole(async move { Ok(json(&claim(&owner, wish).await?)) }).await
        }
        ("POST", api::END) => {
            let NewEnd { end_ms } = read(body).await?;
            owner.end.send_replace(end_ms);
            Ok(nothing())
        }
        ("POST", api::PAUSE) => whole(async move { change(&owner, Stage::Paused).await }).await,
        ("POST", api::RESUME) => whole(async move { change(&owner, Stage::Claimed).await }).await,
        ("POST", api::KILL) => kill(&owner, read(body).await?).await,
        ("POST", api::SNAPSHOT) => whole(async move { take_snapshot(&owner).await }).await,
        _ => Err(No::new(hyper::StatusCode::NOT_FOUND, "not_found", "the owner has no such route")),
    }
}

/// Does it to its end, also when whoever asked for it goes away: a guest to which half of it was done is of no use to
/// the next one who asks.
async fn whole(work: impl Future<Output = Handled> + Send + 'static) -> Handled {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(internal("it was not done to its end")))
}

/// Takes the snapshot, which the guest ends with.
async fn take_snapshot(owner: &Owner) -> Handled {
    let made = snapshot::take(owner).await;
    let reason = if made.is_ok() { EndReason::Snapshotted } else { EndReason::StartFailed };
    if owner.life().stage == Stage::Ending {
        let _ = owner.ending.send(Ending { reason, tell: None }).await;
    }
    Ok(json(&made?))
}

/// Lets a guest start that waits for it.
async fn start(owner: &Owner) -> Handled {
    if owner.spec.start_when == StartWhen::Now {
        return Err(No::conflict("not_spare", "the guest starts without being told"));
    }
    owner.told.send_replace(true);
    let mut runs = owner.runs.subscribe();
    // One that does not come to life ends this process, and this answer with it.
    let _ = runs.wait_for(|runs| *runs).await;
    Ok(nothing())
}

/// Gives the guest to a sandbox: personalises it, then counts from here.
async fn claim(owner: &Owner, wish: Claim) -> Result<Claimed, No> {
    let _changing = owner.changing.lock().await;
    if owner.spec.purpose == Purpose::Snapshot {
        return Err(No::conflict("for_snapshot", "the guest was booted for a snapshot, and is nobody's"));
    }
    let agent = {
        let life = owner.life();
        match (&life.tenancy, life.stage) {
            (Some(tenancy), _) if tenancy.sandbox_id == wish.sandbox_id => {
                return Ok(tenancy.claimed.clone());
            }
            (Some(_), _) => return Err(No::conflict("already_claimed", "another sandbox has this guest")),
            (None, Stage::Ready) => life.agent.clone(),
            (None, _) => None,
        }
    };
    let Some(agent) = agent else {
        return Err(No::conflict("not_ready", "the guest is not ready to be claimed"));
    };
    let before = owner.stats().await;
    let personalise = Personalise {
        entropy: entropy()?,
        now: omnirun_agent_api::UnixMillis(clock::now().0),
        hostname: wish.hostname,
        envs: wish.envs.into_iter().map(|(name, value)| (name, Private::from(value))).collect(),
    };
    let watch = Stopwatch::start(Instant::now());
    let made = match agent.personalise(&personalise).await {
        Ok(made) => made,
        Err(AgentError::Refused { status, refusal }) if status.is_client_error() => {
            return Err(No(status, refusal));
        }
        Err(_) => {
            // Half personalised is not fit for anybody.
            let _ = owner.ending.send(Ending { reason: EndReason::AgentLost, tell: None }).await;
            return Err(No::new(
                hyper::StatusCode::BAD_GATEWAY,
                "guest_gone",
                "the guest did not take its identity",
            ));
        }
    };
    let claimed = Claimed { boot_id: made.boot_id, machine_id: made.machine_id, instance: made.instance };
    owner.end.send_replace(wish.end_ms);
    let mut life = owner.life();
    life.stage = Stage::Claimed;
    life.tenancy = Some(Tenancy { sandbox_id: wish.sandbox_id, claimed: claimed.clone(), watch, before });
    Ok(claimed)
}

/// 64 bytes of the host's randomness, as the agent takes them. By the system call: nothing else of the host is there
/// in a jail.
fn entropy() -> Result<Private, No> {
    let mut bytes = [0_u8; 64];
    // Requests this short are never cut (getrandom(2)).
    rustix::io::retry_on_intr(|| getrandom(&mut bytes[..], GetRandomFlags::empty()))
        .map_err(|_| internal("the host has no randomness"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}

/// Pauses or resumes a claimed guest.
async fn change(owner: &Owner, wanted: Stage) -> Handled {
    let _changing = owner.changing.lock().await;
    let stage = owner.life().stage;
    if stage == wanted {
        return Ok(nothing());
    }
    if !matches!(stage, Stage::Claimed | Stage::Paused) {
        return Err(No::conflict("not_claimed", "no sandbox has this guest"));
    }
    let done = owner.with_guest(move |guest| match wanted {
        Stage::Paused => guest.pause(),
        _ => guest.resume(),
    });
    match done.await {
        Some(Ok(())) => {
            let agent = {
                let mut life = owner.life();
                life.stage = wanted;
                if let Some(tenancy) = &mut life.tenancy {
                    match wanted {
                        Stage::Paused => tenancy.watch.pause(Instant::now()),
                        _ => tenancy.watch.resume(Instant::now()),
                    }
                }
                life.agent.clone()
            };
            if let (Stage::Claimed, Some(agent)) = (wanted, agent) {
                // Its clock stood still with it. A guest whose agent does not listen any more keeps the old time.
                let _ = agent.set_clock(omnirun_agent_api::UnixMillis(clock::now().0)).await;
            }
            Ok(nothing())
        }
        _ => Err(internal("the monitor did not do it")),
    }
}

async fn kill(owner: &Owner, wish: Kill) -> Handled {
    if !wish.reason.is_for_callers() {
        let message = "the reason is not killed, host_stopped, host_cut_off or not_needed";
        return Err(No::new(hyper::StatusCode::UNPROCESSABLE_ENTITY, "bad_reason", message));
    }
    let (tell, told) = oneshot::channel();
    let gone = No::new(hyper::StatusCode::GONE, "guest_gone", "the guest has ended");
    if owner.ending.send(Ending { reason: wish.reason, tell: Some(tell) }).await.is_err() {
        return Err(gone);
    }
    told.await.map(|done| json(&done)).map_err(|_| gone)
}
