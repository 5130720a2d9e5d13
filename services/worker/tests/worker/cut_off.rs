//! A host that can say nothing on the log, and one that was given up.

use omnirun_events::event::Event;
use omnirun_events::sandbox::StopReason;
use omnirun_events::unit::{Millis, Seconds};
use omnirun_events::{Actor, Role};
use omnirun_projections::hosts::LostBy;
use omnirun_projections::sandboxes::State;
use omnirun_worker::{Stop, Worker};

use crate::bed::{Bed, PATIENCE, count, host, sandbox};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cut_off_for_too_long_ends_its_sandboxes_and_works_again_when_it_is_back() {
    let bed = Bed::new().await;
    let mut parts = bed.parts(1);
    parts.config.cut_off_after = Millis(5_000);
    let worker = Worker::start(parts).await.expect("a good host");
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    bed.cut(true);
    bed.nothing_left(1).await;
    assert_eq!(bed.until(sandbox(50), |_| true).await.state, State::Running, "nobody could be told");
    bed.cut(false);
    let ended = bed.ended(sandbox(50)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::HostLost));
    let metered = ended.meter.expect("its owner counted to the end");
    assert!(metered.wall >= Millis(5_000), "{metered:?}");
    bed.request(sandbox(51), "base", Seconds(300)).await;
    bed.running(sandbox(51)).await;
    worker.stop(Stop::Drain).await;
    let history = bed.history(sandbox(50)).await;
    assert_eq!(count(&history, |event| matches!(event, Event::SandboxStopped(_))), 1, "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_lease_was_over_joins_again_as_soon_as_it_hears_of_it() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    let joined_at = bed.live().view(|directory, _| directory.hosts.get(host(1)).map(|known| known.joined_at));
    bed.lose(1, Actor::System(Role::Commands)).await;
    let live = bed.live();
    let again = live.until(PATIENCE, |directory| {
        let known = directory.hosts.get(host(1))?;
        (directory.hosts.lost(host(1)).is_none() && Some(known.joined_at) > joined_at).then_some(())
    });
    again.await.expect("it joins again");
    bed.request(sandbox(51), "base", Seconds(300)).await;
    bed.running(sandbox(51)).await;
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_an_operator_gave_up_takes_no_request_until_its_next_start() {
    let bed = Bed::new().await;
    let (first, second) = (bed.worker(1).await, bed.worker(2).await);
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    bed.lose(1, Actor::Operator).await;
    for number in 60..70 {
        bed.request(sandbox(number), "base", Seconds(300)).await;
        assert_eq!(bed.running(sandbox(number)).await.host, Some(host(2)));
    }
    let lost = bed.live().view(|directory, _| directory.hosts.lost(host(1)));
    assert_eq!(lost, Some(LostBy::Operator));
    first.stop(Stop::Leave).await;
    second.stop(Stop::Drain).await;
    let first = bed.worker(1).await;
    bed.request(sandbox(70), "base", Seconds(300)).await;
    assert_eq!(bed.running(sandbox(70)).await.host, Some(host(1)));
    first.stop(Stop::Drain).await;
}
