//! The life of one sandbox on one host, and its several ends.

use omnirun_events::event::Event;
use omnirun_events::sandbox::StopReason;
use omnirun_events::unit::{Millis, Seconds};
use omnirun_events::usage::UsageMetered;
use omnirun_projections::sandboxes::State;
use omnirun_worker::Stop;

use crate::bed::{Bed, count, host, now, sandbox};

async fn readings(bed: &Bed) -> Vec<UsageMetered> {
    let events = bed.readings(sandbox(50)).await.into_iter();
    events
        .filter_map(|event| if let Event::UsageMetered(reading) = event { Some(reading) } else { None })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_sandbox_is_reported_once_metered_and_gone() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    let running = bed.running(sandbox(50)).await;
    assert_eq!(running.end_at, running.started_at.map(|at| at.after(Millis(300_000))));
    while readings(&bed).await.len() < 2 {
        tokio::task::yield_now().await;
    }
    bed.request_stop(sandbox(50)).await;
    let ended = bed.ended(sandbox(50)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::Requested));
    bed.nothing_left(1).await;
    worker.stop(Stop::Leave).await;
    let readings = readings(&bed).await;
    assert!(readings.windows(2).all(|pair| pair[0].period < pair[1].period), "{readings:?}");
    assert_eq!(readings.last().map(|last| last.meter), ended.meter);
    let history = bed.history(sandbox(50)).await;
    assert_eq!(count(&history, |event| matches!(event, Event::SandboxStopped(_))), 1, "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_ends_when_its_time_is_up_and_an_extension_moves_that() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(1)).await;
    bed.request(sandbox(51), "base", Seconds(1)).await;
    let extended = bed.running(sandbox(51)).await;
    let end_at = now().after(Millis(2_500));
    bed.extend(sandbox(51), end_at).await;
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Stopped(StopReason::TimedOut));
    let ended = bed.ended(sandbox(51)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::TimedOut));
    assert!(ended.ended_at >= Some(end_at), "{:?} after {:?}", ended.ended_at, extended.end_at);
    worker.stop(Stop::Leave).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_log_is_away_is_said_once_when_it_is_back() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    bed.cut(true);
    bed.request_stop(sandbox(50)).await;
    bed.nothing_left(1).await;
    assert_eq!(bed.until(sandbox(50), |_| true).await.state, State::Stopping);
    bed.cut(false);
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Stopped(StopReason::Requested));
    worker.stop(Stop::Leave).await;
    let history = bed.history(sandbox(50)).await;
    assert_eq!(count(&history, |event| matches!(event, Event::SandboxStopped(_))), 1, "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_host_ends_its_sandboxes_and_leaves() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    worker.stop(Stop::Drain).await;
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Stopped(StopReason::HostDrained));
    bed.nothing_left(1).await;
    let has_left =
        bed.live().view(|directory, _| directory.hosts.get(host(1)).is_some_and(|host| host.has_left));
    assert!(has_left);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_owner_process_is_killed_is_reported_from_its_last_reading() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    while readings(&bed).await.is_empty() {
        tokio::task::yield_now().await;
    }
    for pid in crate::restart::owners(&bed.state(1)).await {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
    }
    let ended = bed.ended(sandbox(50)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::OwnerDied));
    bed.nothing_left(1).await;
    worker.stop(Stop::Leave).await;
    assert_eq!(readings(&bed).await.last().map(|last| last.meter), ended.meter);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_process_that_does_not_end_is_killed_itself_whoever_it_says_that_it_is() {
    let bed = Bed::new().await;
    let mut bystander = std::process::Command::new("sleep").arg("3600").spawn().expect("every system has it");
    std::fs::write(bed.images().join("bystander"), bystander.id().to_string()).expect("writable");
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    bed.request_stop(sandbox(50)).await;
    assert_eq!(bed.ended(sandbox(50)).await.state, State::Stopped(StopReason::OwnerDied));
    bed.nothing_left(1).await;
    worker.stop(Stop::Leave).await;
    assert!(bystander.try_wait().expect("it is ours").is_none(), "it has nothing to do with it");
    bystander.kill().expect("it is ours");
    bystander.wait().expect("it is ours");
}
