//! What others file on a host's subjects: whoever has a worker's access can, and it changes nothing of what the host says there.

use omnirun_events::event::Event;
use omnirun_events::sandbox::{FailReason, SandboxFailed, StopReason};
use omnirun_events::subject::{Slot, SubjectKind};
use omnirun_events::unit::Seconds;
use omnirun_projections::sandboxes::State;
use omnirun_worker::Stop;

use crate::bed::{Bed, account, now, sandbox};

/// The numbers of the readings that are believed.
async fn readings(bed: &Bed, kind: SubjectKind) -> Vec<u32> {
    let events = bed.believed(kind).await.into_iter();
    events
        .filter_map(|event| if let Event::UsageMetered(m) = event { Some(m.period) } else { None })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_believed_after_rubbish_and_copies_of_what_it_said() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(4)).await;
    bed.running(sandbox(50)).await;
    let life = SubjectKind::Sandbox(account(), sandbox(50));
    let meter = SubjectKind::Usage(Slot::of(now()), account(), sandbox(50));
    let failed = SandboxFailed { reason: FailReason::BootFailed };
    let foreign = bed.signed(2, life, failed);
    while readings(&bed, meter).await.is_empty() {
        tokio::task::yield_now().await;
    }
    for kind in [life, meter] {
        let copy = bed.filed(kind).await[0].record.to_vec();
        for record in [copy, foreign.clone(), b"rubbish".to_vec()] {
            bed.spoil(kind, &record).await;
        }
    }
    let ended = bed.ended(sandbox(50)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::TimedOut));
    worker.stop(Stop::Leave).await;
    let readings = readings(&bed, meter).await;
    assert!(readings.len() > 2 && readings.is_sorted(), "{readings:?}");
    let last = bed.believed(meter).await.pop();
    assert!(matches!(last, Some(Event::UsageMetered(last)) if Some(last.meter) == ended.meter));
}
