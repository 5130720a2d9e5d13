//! Pausing and resuming: on the word of the log, said once each, and kept by whoever comes after the worker.

use omnirun_events::event::Event;
use omnirun_events::sandbox::{SandboxPaused, StopReason};
use omnirun_events::unit::Seconds;
use omnirun_projections::sandboxes::State;
use omnirun_vmm_api::owner::Stage;
use omnirun_worker::Stop;

use crate::bed::{Bed, SHAPE, count, sandbox};
use crate::restart::statuses;

async fn stage(bed: &Bed) -> Stage {
    statuses(&bed.state(1)).await.first().expect("one guest").stage
}

async fn pauses(bed: &Bed) -> Vec<SandboxPaused> {
    let events = bed.history(sandbox(50)).await.into_iter();
    events
        .filter_map(|event| if let Event::SandboxPaused(paused) = event { Some(paused) } else { None })
        .collect()
}

async fn reach(bed: &Bed, wanted: Stage) {
    while stage(bed).await != wanted {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_paused_and_resumed_as_often_as_the_log_says_and_metered_by_its_memory_meanwhile() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    let end_at = bed.running(sandbox(50)).await.end_at.expect("it runs");
    for round in 1..=3 {
        bed.request_pause(sandbox(50)).await;
        bed.until(sandbox(50), |sandbox| sandbox.state == State::Paused).await;
        assert_eq!(stage(&bed).await, Stage::Paused);
        assert_eq!(pauses(&bed).await.len(), round);
        bed.resume(sandbox(50), end_at).await;
        reach(&bed, Stage::Claimed).await;
    }
    bed.request_pause(sandbox(50)).await;
    bed.until(sandbox(50), |sandbox| sandbox.state == State::Paused).await;
    // A reading that is later than the pause: it has the memory of the pause and none of its time.
    let readings = bed.readings(sandbox(50)).await.len();
    while bed.readings(sandbox(50)).await.len() < readings + 2 {
        tokio::task::yield_now().await;
    }
    bed.request_stop(sandbox(50)).await;
    let ended = bed.ended(sandbox(50)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::Requested));
    let (last, meter) = (pauses(&bed).await.pop().expect("four"), ended.meter.expect("it ran"));
    assert_eq!((last.end_at, last.meter.wall), (end_at, meter.wall));
    assert!(meter.memory > last.meter.memory && meter.counted(SHAPE) >= meter.wall, "{meter:?} {last:?}");
    worker.stop(Stop::Leave).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_pauses_resumes_and_says_what_the_one_before_it_did_not() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    let end_at = bed.running(sandbox(50)).await.end_at.expect("it runs");
    worker.stop(Stop::Leave).await;
    bed.request_pause(sandbox(50)).await;
    let worker = bed.worker(1).await;
    bed.until(sandbox(50), |sandbox| sandbox.state == State::Paused).await;
    worker.stop(Stop::Leave).await;
    let worker = bed.worker(1).await;
    assert_eq!(stage(&bed).await, Stage::Paused);
    worker.stop(Stop::Leave).await;
    bed.resume(sandbox(50), end_at).await;
    let worker = bed.worker(1).await;
    reach(&bed, Stage::Claimed).await;
    bed.request_stop(sandbox(50)).await;
    bed.ended(sandbox(50)).await;
    worker.stop(Stop::Drain).await;
    let history = bed.history(sandbox(50)).await;
    assert_eq!(count(&history, |event| matches!(event, Event::SandboxPaused(_))), 1, "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sandbox_ends_in_time() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(2)).await;
    bed.running(sandbox(50)).await;
    bed.request_pause(sandbox(50)).await;
    let ended = bed.ended(sandbox(50)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::TimedOut));
    worker.stop(Stop::Leave).await;
}
