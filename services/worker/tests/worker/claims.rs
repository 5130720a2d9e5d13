//! Two hosts and one log: every request is claimed once.

use omnirun_events::event::Event;
use omnirun_events::sandbox::{FailReason, StartedFrom};
use omnirun_events::unit::Seconds;
use omnirun_projections::sandboxes::State;
use omnirun_worker::{Stop, Worker};

use crate::bed::{Bed, PATIENCE, count, host, sandbox, wait};

/// Requests in the race.
const REQUESTS: u8 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_exactly_one_claims_and_starts_each_sandbox() {
    let bed = Bed::new().await;
    let (first, second) = (bed.worker(1).await, bed.worker(2).await);
    let ids: Vec<_> = (50..50 + REQUESTS).map(sandbox).collect();
    for id in &ids {
        bed.request(*id, "base", Seconds(300)).await;
    }
    for id in &ids {
        bed.running(*id).await;
        let history = bed.history(*id).await;
        assert_eq!(count(&history, |event| matches!(event, Event::SandboxClaimed(_))), 1, "{history:?}");
        assert_eq!(count(&history, |event| matches!(event, Event::SandboxStarted(_))), 1, "{history:?}");
    }
    for worker in [first, second] {
        worker.stop(Stop::Drain).await;
    }
    for id in &ids {
        let history = bed.history(*id).await;
        assert_eq!(count(&history, |event| matches!(event, Event::SandboxStopped(_))), 1, "{history:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_host_leaves_a_request_until_it_has_room() {
    let bed = Bed::new().await;
    let mut parts = bed.parts(1);
    parts.config.sandboxes_max = 1;
    let worker = Worker::start(parts).await.expect("a good host");
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    bed.request(sandbox(51), "base", Seconds(300)).await;
    let other = bed.worker(2).await;
    let second = bed.running(sandbox(51)).await;
    assert_eq!(second.host, Some(host(2)));
    other.stop(Stop::Drain).await;
    bed.request(sandbox(52), "base", Seconds(300)).await;
    bed.request_stop(sandbox(50)).await;
    assert_eq!(bed.running(sandbox(52)).await.host, Some(host(1)));
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_come_to_life_fails_its_sandbox() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "broken", Seconds(300)).await;
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Failed(FailReason::BootFailed));
    bed.nothing_left(1).await;
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_guest_is_given_out_and_replaced() {
    let bed = Bed::new().await;
    let mut parts = bed.parts(1);
    parts.config.templates[0].pool = 2;
    let worker = Worker::start(parts).await.expect("a good host");
    let waiting = || crate::bed::names(&bed.state(1).join("guests")).len() / 2;
    wait("two guests in the pool", || waiting() == 2).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    let history = bed.history(sandbox(50)).await;
    let from_pool = |event: &Event| matches!(event, Event::SandboxStarted(s) if s.from == StartedFrom::Pool);
    assert_eq!(count(&history, from_pool), 1, "{history:?}");
    wait("the third guest", || waiting() == 3).await;
    worker.stop(Stop::Drain).await;
    bed.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_says_nothing_until_its_key_is_enrolled() {
    let bed = Bed::new().await;
    let worker = bed.worker(3).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    // Host 1 has the sandbox: host 3 had its chance and did not take it.
    let other = bed.worker(1).await;
    assert_eq!(bed.running(sandbox(50)).await.host, Some(host(1)));
    assert!(bed.live().view(|directory, _| directory.hosts.get(host(3)).is_none()));
    bed.enrol_worker(3).await;
    let joined = bed.live();
    let joined = joined.until(PATIENCE, |directory| directory.hosts.get(host(3)).map(drop));
    joined.await.expect("it joins once it is enrolled, and the directory believes it");
    worker.stop(Stop::Leave).await;
    other.stop(Stop::Drain).await;
}
