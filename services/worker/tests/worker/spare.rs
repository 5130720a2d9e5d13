//! Spares: owner processes that have all but a guest, beside the pool of a host with our own monitor.

use omnirun_events::event::Event;
use omnirun_events::sandbox::StartedFrom;
use omnirun_events::unit::Seconds;
use omnirun_vmm_api::MonitorChoice;
use omnirun_vmm_api::owner::Stage;
use omnirun_worker::{Stop, Worker, WorkerHandle};

use crate::bed::{Bed, PATIENCE, count, sandbox};
use crate::restart::statuses;

async fn worker(bed: &Bed, monitor: MonitorChoice) -> WorkerHandle {
    let mut parts = bed.parts(1);
    parts.config.monitor = monitor;
    parts.config.templates[0].pool = 1;
    Worker::start(parts).await.expect("a good host")
}

/// Waits until the owner processes are these many claimed, ready and spare; answers with the spare's process id.
async fn until(bed: &Bed, wanted: [usize; 3]) -> Option<u32> {
    let look = async {
        loop {
            let all = statuses(&bed.state(1)).await;
            let count = |stage| all.iter().filter(|status| status.stage == stage).count();
            if [Stage::Claimed, Stage::Ready, Stage::Spare].map(count) == wanted {
                return all.iter().find(|status| status.stage == Stage::Spare).map(|spare| spare.owner_pid);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("there never were {wanted:?}"))
}

async fn stage_of(bed: &Bed, pid: Option<u32>) -> Option<Stage> {
    let all = statuses(&bed.state(1)).await;
    all.iter().find(|status| Some(status.owner_pid) == pid).map(|status| status.stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_taken_from_the_pool_is_replaced_from_the_spare_and_that_by_another() {
    let bed = Bed::new().await;
    let worker = worker(&bed, MonitorChoice::Kvm).await;
    let spare = until(&bed, [0, 1, 1]).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    let next = until(&bed, [1, 1, 1]).await;
    assert_ne!(next, spare);
    assert_eq!(stage_of(&bed, spare).await, Some(Stage::Ready), "the pool's guest is the spare of before");
    worker.stop(Stop::Drain).await;
    bed.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_that_find_the_pool_empty_get_what_is_there() {
    let bed = Bed::new().await;
    let worker = worker(&bed, MonitorChoice::Kvm).await;
    until(&bed, [0, 1, 1]).await;
    let ids = [50, 51, 52, 53].map(sandbox);
    for id in ids {
        bed.request(id, "base", Seconds(300)).await;
    }
    let mut from_pool = 0;
    for id in ids {
        bed.running(id).await;
        let history = bed.history(id).await;
        let is_from_pool = |event: &Event| matches!(event, Event::SandboxStarted(started) if started.from == StartedFrom::Pool);
        from_pool += count(&history, is_from_pool);
    }
    assert!(from_pool >= 2, "{from_pool} of 4 sandboxes got what was there");
    until(&bed, [4, 1, 1]).await;
    worker.stop(Stop::Drain).await;
    bed.nothing_left(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_the_other_monitor_has_no_spare() {
    let bed = Bed::new().await;
    let worker = worker(&bed, MonitorChoice::Qemu).await;
    until(&bed, [0, 1, 0]).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    // The pool has been filled again, after which a spare would have been made.
    until(&bed, [1, 1, 0]).await;
    worker.stop(Stop::Leave).await;
    assert!(statuses(&bed.state(1)).await.iter().all(|status| status.stage == Stage::Claimed));
}
