//! An owner process without a guest: speaks like `omnirun vmm`, for tests of the worker that need many and quickly.
//!
//! Under `/agent` it answers with what it was sent, and prints without end as a command's output. A template named `broken` never comes to
//! life. Where the template store has a file named `bystander`, it says that it is the process whose number is in there, and does not end.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_vmm_api::owner::{self as api, *};
use omnirun_vmm_api::{Bytes as Amount, MemoryMib, Millis, TemplateDigests, UnixMillis};
use tokio::sync::{Notify, watch};

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct State {
    spec: OwnerSpec,
    template: TemplateDigests,
    tenancy: Mutex<Option<(String, Instant)>>,
    /// Since when it stands still, and for how long it has before.
    standing: Mutex<(Option<Instant>, Duration)>,
    /// Whether it was told to start its guest, if it waits for that.
    is_started: AtomicBool,
    end: watch::Sender<Option<UnixMillis>>,
    reason: Mutex<Option<EndReason>>,
    ending: Notify,
    ended: watch::Sender<Option<Final>>,
}

impl State {
    fn usage(&self) -> Usage {
        // One look at the clock: a guest that stands still has run for the same time whenever it is asked.
        let now = Instant::now();
        let since = self.tenancy.lock().expect("no panic").as_ref().map(|(_, since)| *since);
        let age = since.map_or(Duration::ZERO, |since| now.duration_since(since));
        let (standing, before) = *self.standing.lock().expect("no panic");
        let paused = before + standing.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let millis = |length: Duration| Millis(length.as_millis() as u64);
        let (wall_ms, paused_ms, age) = (millis(age.saturating_sub(paused)), millis(paused), millis(age));
        let MemoryMib(memory) = self.spec.memory;
        let memory_mib_s = omnirun_vmm_api::MibSeconds(u64::from(memory) * age.0 / 1000);
        Usage { wall_ms, paused_ms, vcpu_ms: Millis(wall_ms.0 / 2), memory_mib_s, ..Usage::default() }
    }

    /// The process that it pretends to be.
    fn bystander(&self) -> Option<u32> {
        std::fs::read_to_string(self.spec.store.join("bystander")).ok()?.parse().ok()
    }

    fn status(&self) -> Status {
        let tenancy = self.tenancy.lock().expect("no panic").clone();
        Status {
            stage: match (&tenancy, self.is_started.load(Ordering::SeqCst)) {
                (Some(_), _) if self.standing.lock().expect("no panic").0.is_some() => Stage::Paused,
                (Some(_), _) => Stage::Claimed,
                (None, true) => Stage::Ready,
                (None, false) => Stage::Spare,
            },
            vm_id: self.spec.vm_id.clone(),
            template: self.template.clone(),
            sandbox_id: tenancy.map(|(id, _)| id),
            end_ms: *self.end.borrow(),
            started_from: Some(StartFrom::Snapshot),
            answered_after_ms: Some(Millis(1)),
            usage: self.usage(),
            resident_bytes: Amount(0),
            owner_pid: self.bystander().unwrap_or(std::process::id()),
            monitor_pid: None,
        }
    }

    fn end(&self, reason: EndReason) {
        self.reason.lock().expect("no panic").get_or_insert(reason);
        self.ending.notify_one();
    }
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    UnixMillis(since.as_millis() as u64)
}

fn whole(body: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(body.into()).boxed_unsync())
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    whole(serde_json::to_vec(value).expect("plain data"))
}

/// A command's output, in lines as short as an agent's get.
fn endless() -> Response<Body> {
    let lines = stream::repeat(Bytes::from_static(&[b'x'; 60]));
    Response::new(StreamBody::new(lines.map(|line| Ok(Frame::data(line)))).boxed_unsync())
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = whole("");
    *answer.status_mut() = status;
    answer
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let has_capability = request.headers().contains_key("omnirun-capability");
    let Ok(body) = request.into_body().collect().await else { return Ok(empty(StatusCode::BAD_REQUEST)) };
    let body = body.to_bytes();
    Ok(match path.as_str() {
        api::STATUS => json(&state.status()),
        api::START => {
            state.is_started.store(true, Ordering::SeqCst);
            empty(StatusCode::NO_CONTENT)
        }
        api::CLAIM if !state.is_started.load(Ordering::SeqCst) => empty(StatusCode::CONFLICT),
        api::CLAIM => {
            let claim: Claim = serde_json::from_slice(&body).expect("the worker speaks the protocol");
            let mut tenancy = state.tenancy.lock().expect("no panic");
            if tenancy.as_ref().is_some_and(|(id, _)| *id != claim.sandbox_id) {
                return Ok(empty(StatusCode::CONFLICT));
            }
            if tenancy.is_none() {
                state.end.send_replace(claim.end_ms);
                *tenancy = Some((claim.sandbox_id, Instant::now()));
            }
            let text = String::new;
            json(&Claimed { boot_id: text(), machine_id: text(), instance: text() })
        }
        api::END => {
            let new: NewEnd = serde_json::from_slice(&body).expect("the worker speaks the protocol");
            state.end.send_replace(new.end_ms);
            empty(StatusCode::NO_CONTENT)
        }
        api::PAUSE => {
            state.standing.lock().expect("no panic").0.get_or_insert(Instant::now());
            empty(StatusCode::NO_CONTENT)
        }
        api::RESUME => {
            let mut standing = state.standing.lock().expect("no panic");
            let more = standing.0.take().map_or(Duration::ZERO, |since| since.elapsed());
            standing.1 += more;
            empty(StatusCode::NO_CONTENT)
        }
        api::KILL if state.bystander().is_some() => empty(StatusCode::CONFLICT),
        api::KILL => {
            let kill: Kill = serde_json::from_slice(&body).expect("the worker speaks the protocol");
            let mut ended = state.ended.subscribe();
            state.end(kill.reason);
            match ended.wait_for(Option::is_some).await {
                Ok(left) => json(&left.expect("just seen")),
                Err(_) => empty(StatusCode::GONE),
            }
        }
        "/agent/capability" => json(&has_capability),
        path if path.starts_with("/agent/commands/") => endless(),
        path if path.starts_with("/agent/") => whole(body),
        _ => empty(StatusCode::NOT_FOUND),
    })
}

async fn time_is_up(mut end: watch::Receiver<Option<UnixMillis>>) {
    loop {
        let at = *end.borrow_and_update();
        let left =
            at.map_or(Duration::from_secs(3600), |at| Duration::from_millis(at.0.saturating_sub(now().0)));
        if left.is_zero() {
            return;
        }
        drop(tokio::time::timeout(left, end.changed()).await);
    }
}

async fn gone(directory: &Path) {
    while directory.exists() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn leave(directory: &Path, left: &Final) {
    std::fs::remove_file(directory.join(SOCKET)).expect("it is ours");
    let temporary = directory.join("final.new");
    std::fs::write(&temporary, serde_json::to_vec(left).expect("plain data")).expect("it is ours");
    std::fs::rename(temporary, directory.join(FINAL)).expect("it is ours");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(std::env::args().nth(1).as_deref(), Some("vmm"), "the worker says what it starts");
    let spec: OwnerSpec = serde_json::from_reader(std::io::stdin()).expect("the worker writes a spec");
    let _ = rustix::process::setsid();
    std::fs::create_dir_all(&spec.state_dir).expect("writable");
    let description = spec.store.join("templates").join(&spec.template).join("template.json");
    let text = std::fs::read(description).expect("the test made it");
    let template: TemplateDigests = serde_json::from_slice(&text).expect("the test made it");
    let directory = spec.state_dir.clone();
    let listener = tokio::net::UnixListener::bind(directory.join(SOCKET)).expect("a short path");
    let is_started = AtomicBool::new(spec.start_when == StartWhen::Now);
    let state = Arc::new(State {
        spec,
        is_started,
        template,
        tenancy: Mutex::default(),
        standing: Mutex::default(),
        end: watch::Sender::new(None),
        reason: Mutex::default(),
        ending: Notify::new(),
        ended: watch::Sender::new(None),
    });
    let shared = state.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let state = shared.clone();
            let service = service_fn(move |request| answer(state.clone(), request));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    if state.spec.template == "broken" {
        state.end(EndReason::StartFailed);
    }
    tokio::select! {
        // A test that failed has removed its directories.
        () = gone(&directory) => return,
        () = state.ending.notified() => {}
        () = time_is_up(state.end.subscribe()) => state.end(EndReason::EndTime),
    }
    let reason = state.reason.lock().expect("no panic").expect("whoever ends it says why");
    let left = Final { reason, ended_at_ms: now(), usage: state.usage() };
    leave(&directory, &left);
    state.ended.send_replace(Some(left));
    tokio::time::sleep(Duration::from_millis(20)).await;
}
