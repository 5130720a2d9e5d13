//! What others file on a host's subjects: whoever has a worker's access can, and it changes nothing of what the host says there.

use omnirun_events::Actor;
use omnirun_events::envelope::{Draft, Head};
use omnirun_events::event::Event;
use omnirun_events::id::CommitId;
use omnirun_events::keyring::KeyRing;
use omnirun_events::log::{Append, AppendError, Batch, Entry, Read, Sequence, Stored, read_to_end};
use omnirun_events::sandbox::{FailReason, SandboxFailed, StopReason};
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::unit::Seconds;
use omnirun_events::verify::{Depth, Verdict, Verifier};
use omnirun_projections::sandboxes::State;
use omnirun_worker::Stop;

use crate::bed::{Bed, account, host, now, random, sandbox, worker_key};

impl Bed {
    /// Files bytes after the last record of a subject, as whoever has a worker's access can.
    async fn spoil(&self, kind: SubjectKind, record: &[u8]) {
        let (subject, commit) = (Subject::from(kind), CommitId::from_bytes(random()));
        let file = async |expected| {
            let record = record.to_vec().into();
            self.log
                .append_all(Batch::one(Entry { subject: subject.clone(), expected, commit, record }))
                .await
        };
        loop {
            let last = self.log.last(&subject).await.expect("memory");
            match file(last.map_or(Sequence::NONE, |stored| stored.sequence)).await {
                Ok(_) => return,
                Err(AppendError::Conflict { .. }) => {}
                Err(error) => panic!("memory: {error}"),
            }
        }
    }

    /// The records of a subject, as they are filed.
    async fn filed(&self, kind: SubjectKind) -> Vec<Stored> {
        let filter = Filter::exactly(&kind.into());
        read_to_end(&self.log, kind.log(), filter, Sequence::NONE).await.expect("memory")
    }

    /// The events of a subject that are believed.
    async fn believed(&self, kind: SubjectKind) -> Vec<Event> {
        let mut verifier = Verifier::new(KeyRing::rooted_in(&self.root()).expect("a good key"));
        let mut believed = Vec::new();
        for log in [Log::Events, kind.log()] {
            let all = read_to_end(&self.log, log, Filter::all(), Sequence::NONE).await.expect("memory");
            for stored in all {
                match verifier.check(log, &stored, Depth::Signatures) {
                    Ok(Verdict::Believed(record)) if stored.subject.kind() == kind => {
                        believed.extend(record.events);
                    }
                    Ok(_) => {}
                    Err(fault) => assert!(verifier.pass(log, &stored), "{fault:?}"),
                }
            }
        }
        believed
    }
}

/// A record by the key of a host, as the first of its subject.
fn signed(number: u8, kind: SubjectKind, event: impl Into<Event>) -> Vec<u8> {
    let draft = Draft {
        commit: CommitId::from_bytes(random()),
        subject: kind.into(),
        at: now(),
        actor: Actor::Host(host(number)),
        cause: None,
        events: vec![event.into()],
    };
    worker_key(number).sign(&draft, &Head::EMPTY).expect("a small draft").bytes.to_vec()
}

/// The numbers of the readings that are believed.
async fn readings(bed: &Bed, kind: SubjectKind) -> Vec<u32> {
    let events = bed.believed(kind).await.into_iter();
    events
        .filter_map(|event| if let Event::UsageMetered(m) = event { Some(m.period) } else { None })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_claimed_whatever_others_filed_for_it_first() {
    let bed = Bed::new().await;
    let life = |number| SubjectKind::Sandbox(account(), sandbox(number));
    let failed = SandboxFailed { reason: FailReason::BootFailed };
    bed.spoil(life(50), b"rubbish").await;
    bed.spoil(life(51), &signed(2, life(51), failed)).await;
    let worker = bed.worker(1).await;
    for number in [50, 51] {
        bed.request(sandbox(number), "base", Seconds(300)).await;
        bed.running(sandbox(number)).await;
    }
    worker.stop(Stop::Drain).await;
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
    let foreign = signed(2, life, failed);
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
