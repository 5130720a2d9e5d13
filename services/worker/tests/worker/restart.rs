//! A worker that comes back: what lives is taken over, what died is reported, what must not live is ended.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_events::event::Event;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Cursor, ReadError};
use omnirun_events::sandbox::StopReason;
use omnirun_events::unit::{Millis, Seconds};
use omnirun_events::{Filter, Log, Read, Sequence, Stored, Subject};
use omnirun_projections::sandboxes::State;
use omnirun_runner::{Source, follow};
use omnirun_vmm_api::owner::{SOCKET, STATUS, Status};
use omnirun_worker::Stop;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::bed::{Bed, count, names, now, sandbox, wait};

/// The owner processes that answer below a state directory.
pub async fn owners(state: &Path) -> Vec<Pid> {
    let statuses = statuses(state).await;
    statuses.iter().filter_map(|status| Pid::from_raw(status.owner_pid as i32)).collect()
}

/// What they say about themselves.
pub async fn statuses(state: &Path) -> Vec<Status> {
    let mut found = Vec::new();
    for directory in names(&state.join("guests")) {
        let Ok(stream) = UnixStream::connect(directory.join(SOCKET)).await else { continue };
        let (mut requests, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("an owner process");
        tokio::spawn(connection);
        let request =
            Request::get(format!("http://owner{STATUS}")).body(Empty::<Bytes>::new()).expect("good");
        let Ok(answer) = requests.send_request(request).await else { continue };
        let Ok(body) = answer.into_body().collect().await else { continue };
        found.push(serde_json::from_slice(&body.to_bytes()).expect("a status"));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_takes_over_what_lives() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    worker.stop(Stop::Leave).await;
    let before = owners(&bed.state(1)).await;
    assert_eq!(before.len(), 1);
    let worker = bed.worker(1).await;
    bed.request(sandbox(51), "base", Seconds(300)).await;
    bed.running(sandbox(51)).await;
    assert!(owners(&bed.state(1)).await.contains(&before[0]), "its guest lived on");
    bed.request_stop(sandbox(50)).await;
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Stopped(StopReason::Requested));
    let history = bed.history(sandbox(50)).await;
    assert_eq!(count(&history, |event| matches!(event, Event::SandboxStarted(_))), 1, "{history:?}");
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_the_worker_was_away_is_reported_once() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(1)).await;
    bed.request(sandbox(51), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    bed.running(sandbox(51)).await;
    worker.stop(Stop::Leave).await;
    let state = bed.state(1);
    wait("the first one's time to be up", || {
        names(&state.join("guests")).iter().any(|guest| guest.join("final.json").exists())
    })
    .await;
    for pid in owners(&state).await {
        kill_process(pid, Signal::KILL).expect("it is ours");
    }
    let worker = bed.worker(1).await;
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Stopped(StopReason::TimedOut));
    assert_eq!(bed.ended(sandbox(51)).await.state, State::Stopped(StopReason::OwnerDied));
    bed.nothing_left(1).await;
    worker.stop(Stop::Leave).await;
    for id in [sandbox(50), sandbox(51)] {
        let history = bed.history(id).await;
        assert_eq!(count(&history, |event| matches!(event, Event::SandboxStopped(_))), 1, "{history:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_back_after_twenty_days_still_says_what_was_metered() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    while bed.readings(sandbox(50)).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    worker.stop(Stop::Leave).await;
    let readings = bed.readings(sandbox(50)).await;
    for pid in owners(&bed.state(1)).await {
        kill_process(pid, Signal::KILL).expect("it is ours");
    }
    let mut parts = bed.parts(1);
    parts.clock = Arc::new(|| now().after(Millis(20 * 24 * 3_600_000)));
    let worker = omnirun_worker::Worker::start(parts).await.expect("a good host");
    let ended = bed.ended(sandbox(50)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::OwnerDied));
    let Some(Event::UsageMetered(last)) = readings.last() else { panic!("two readings at least") };
    assert_eq!((ended.meter, ended.ended_at), (Some(last.meter), Some(last.observed_at)));
    worker.stop(Stop::Leave).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_ends_what_was_stopped_and_what_nobody_has() {
    let bed = Bed::new().await;
    let mut parts = bed.parts(1);
    parts.config.templates[0].pool = 1;
    let worker = omnirun_worker::Worker::start(parts).await.expect("a good host");
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    wait("a guest in the pool", || names(&bed.state(1).join("guests")).len() == 4).await;
    // Stops at once, as a crash would: its pool guest lives on.
    drop(worker);
    let owners = owners(&bed.state(1)).await;
    assert_eq!(owners.len(), 2);
    bed.request_stop(sandbox(50)).await;
    let worker = bed.worker(1).await;
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Stopped(StopReason::Requested));
    bed.nothing_left(1).await;
    wait("both processes to be gone", || owners.iter().all(|pid| test_kill_process(*pid).is_err())).await;
    worker.stop(Stop::Leave).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_a_crash_left_between_claim_and_guest_gets_a_guest() {
    let bed = Bed::new().await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.claim(1, sandbox(50)).await;
    // What a crash just before the owner process ran would leave: the lock and the note of the sandbox.
    let (guests, sandboxes) = (bed.state(1).join("guests"), bed.state(1).join("sandboxes"));
    for directory in [&guests, &sandboxes] {
        std::fs::create_dir_all(directory).expect("writable");
    }
    std::fs::write(guests.join("vm-1.lock"), "").expect("writable");
    std::os::unix::fs::symlink("vm-1", sandboxes.join(sandbox(50).to_string())).expect("writable");
    let worker = bed.worker(1).await;
    bed.running(sandbox(50)).await;
    worker.stop(Stop::Drain).await;
    bed.nothing_left(1).await;
}

/// A log that nobody can read until it is opened.
struct Gated(MemoryLog, watch::Receiver<bool>);

#[async_trait]
impl Read for Gated {
    async fn read(&self, log: Log, filter: Filter, after: Sequence) -> Result<Box<dyn Cursor>, ReadError> {
        let mut gate = self.1.clone();
        gate.wait_for(|is_open| *is_open).await.expect("the test holds the gate");
        self.0.read(log, filter, after).await
    }

    async fn head(&self, log: Log) -> Result<Sequence, ReadError> {
        self.0.head(log).await
    }

    async fn last(&self, subject: &Subject) -> Result<Option<Stored>, ReadError> {
        self.0.last(subject).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_ended_before_the_directory_has_caught_up() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    worker.stop(Stop::Leave).await;
    let before = owners(&bed.state(1)).await;

    let (gate, is_open) = watch::channel(false);
    let reader = Arc::new(Gated(bed.log.clone(), is_open));
    let follower = follow(reader, bed.root(), Source::Events, None).await.expect("a good log");
    let mut parts = bed.parts(1);
    parts.directory = follower.live();
    parts.config.templates[0].pool = 1;
    let worker = omnirun_worker::Worker::start(parts).await.expect("a good host");
    // By the time that the pool has a guest, the reconciler would have looked.
    wait("a guest in the pool", || names(&bed.state(1).join("guests")).len() == 4).await;
    assert!(owners(&bed.state(1)).await.contains(&before[0]), "its guest lived on");
    gate.send_replace(true);
    bed.request_stop(sandbox(50)).await;
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Stopped(StopReason::Requested));
    worker.stop(Stop::Drain).await;
}
