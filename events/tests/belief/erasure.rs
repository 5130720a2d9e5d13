//! Tombstones: what is gone, where chains go on, and what nobody can bury.

use omnirun_events::erasure::*;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Append as _, Erase as _, Stored};
use omnirun_events::verify::{Depth, FaultKind, Ignored, Verdict, Verifier, tombstones};
use omnirun_events::*;
use proptest::prelude::*;

use crate::sample::*;

const CAUSE: Cause = Cause::Account { receipt: ReceiptId::from_bytes([1; 16]) };

/// The account's records of EVENTS, each read and believed, in a log that goes on.
fn lived() -> (Written, Vec<Stored>) {
    let mut log = Written::enrolled();
    let (commands, worker) = (signer(Role::Commands, 0), signer(Role::Worker, 0));
    let steps = [
        (&commands, SubjectKind::Account(account()), "account.opened"),
        (&commands, SubjectKind::Admission(account()), "sandbox.requested"),
        (&worker, sandbox_subject(), "sandbox.claimed"),
        (&worker, sandbox_subject(), "sandbox.started"),
    ];
    let mut records = Vec::new();
    for (by, subject, name) in steps {
        let actor = if by.id() == worker.id() { Actor::Host(host(0)) } else { Actor::System(Role::Commands) };
        let stored = log.next(by, actor, subject, vec![event(name)]);
        assert!(matches!(log.check(&stored), Ok(Verdict::Believed(_))), "{name}");
        records.push(stored);
    }
    (log, records)
}

fn tombstone(cause: Cause, records: &[Stored], starts: Vec<ChainStart>) -> RecordsErased {
    let positions: Positions = records.iter().map(|stored| stored.sequence).collect();
    RecordsErased { cause, log: Log::Events, positions: positions.spans().collect(), starts }
}

fn end_of(log: &Written, subject: SubjectKind) -> ChainStart {
    let head = log.verifier.head(&subject.into());
    ChainStart(head.version, head.hash)
}

/// What a worker would still append, as the successor of what it knows.
fn late(log: &mut Written, name: &str, subject: SubjectKind) -> Stored {
    log.next(&signer(Role::Worker, 0), Actor::Host(host(0)), subject, vec![event(name)])
}

fn bury(log: &mut Written, tombstone: RecordsErased) -> Verdict {
    log.put(&signer(Role::Commands, 0), SubjectKind::Erasure, vec![tombstone.into()])
        .expect("it is well made")
}

#[test]
fn a_tombstone_makes_the_subjects_it_takes_whole_unknown() {
    let (mut log, records) = lived();
    let said = tombstone(CAUSE, &records, Vec::new());
    assert!(matches!(bury(&mut log, said), Verdict::Believed(_)));
    for subject in [SubjectKind::Account(account()), SubjectKind::Admission(account()), sandbox_subject()] {
        assert_eq!(log.verifier.head(&subject.into()), Head::EMPTY, "{subject}");
    }
    assert_eq!(log.verifier.owner(sandbox_subject()), None);
    let mut forgotten = log.verifier.take_forgotten();
    forgotten.sort_by_key(SubjectKind::to_string);
    assert_eq!(
        forgotten,
        [SubjectKind::Account(account()), SubjectKind::Admission(account()), sandbox_subject()]
    );
    assert_eq!(log.verifier.take_forgotten(), []);
    let state = log.verifier.state();
    let texts: Vec<String> = state.heads.iter().map(|(subject, _)| subject.to_string()).collect();
    assert_eq!(texts, ["sys.erasure", "sys.keys"], "a checkpoint keeps no erased subject");
}

#[test]
fn a_record_under_a_tombstone_is_skipped_even_if_it_is_no_record() {
    let (mut log, records) = lived();
    let said = tombstone(CAUSE, &records, Vec::new());
    bury(&mut log, said);
    for mut stored in records {
        assert!(matches!(log.check(&stored), Ok(Verdict::Erased)));
        stored.record = "no record".into();
        assert!(matches!(log.check(&stored), Ok(Verdict::Erased)));
    }
}

#[test]
fn a_subject_without_its_beginning_starts_where_the_tombstone_says_and_nowhere_else() {
    let (mut log, records) = lived();
    let start = end_of(&log, sandbox_subject());
    let next = late(&mut log, "sandbox.stopped", sandbox_subject());
    let mut cut = Verifier::new(log.verifier.ring().clone());
    let gap = cut.check(Log::Events, &next, Depth::Signatures).expect_err("nothing says where it starts");
    assert!(gap.may_be_erasure());
    for (starts, is_good) in [
        (vec![start], true),
        (vec![ChainStart(start.0 - 1, start.1)], false),
        (vec![ChainStart(start.0, RecordHash([9; 32]))], false),
        (vec![], false),
    ] {
        let mut cut = Verifier::new(log.verifier.ring().clone());
        let mut erased = Erased::default();
        erased.add(&tombstone(Cause::Retention, &records, starts));
        cut.learn(&erased);
        let found = cut.check(Log::Events, &next, Depth::Signatures);
        assert_eq!(found.is_ok(), is_good, "{found:?}");
    }
}

#[test]
fn a_late_writers_record_is_ignored_and_stops_nobody() {
    let (mut log, records) = lived();
    let after = late(&mut log, "sandbox.stopped", sandbox_subject());
    let metered = late(&mut log, "usage.metered", usage_subject());
    let said = tombstone(CAUSE, &records, vec![end_of(&log, sandbox_subject())]);
    bury(&mut log, said);
    let anew = late(&mut log, "sandbox.stopped", sandbox_subject());
    for stored in [after, metered] {
        let found = log.check(&stored);
        assert!(matches!(found, Ok(Verdict::Ignored(_, Ignored::Erased))), "{found:?}");
    }
    let mut purged = log.verifier.clone();
    let found = purged.check(Log::Events, &anew, Depth::Signatures);
    assert!(
        matches!(&found, Err(fault) if matches!(fault.kind, FaultKind::Gap { .. })),
        "after number 3 comes no 1"
    );
    let (mut log, records) = lived();
    let said = tombstone(CAUSE, &records, Vec::new());
    bury(&mut log, said);
    let anew = late(&mut log, "sandbox.stopped", sandbox_subject());
    assert!(matches!(log.check(&anew), Ok(Verdict::Ignored(_, Ignored::Erased))));
}

#[test]
fn what_the_system_says_of_itself_cannot_be_buried() {
    let mut log = Written::enrolled();
    let joined = log.next(
        &signer(Role::Worker, 0),
        Actor::Host(host(0)),
        SubjectKind::Host(host(0)),
        vec![event("host.joined")],
    );
    assert!(matches!(log.check(&joined), Ok(Verdict::Believed(_))));
    let positions = vec![Span(Sequence(1), log.last().0)];
    let said = RecordsErased { cause: Cause::Retention, log: Log::Events, positions, starts: Vec::new() };
    assert!(matches!(bury(&mut log, said), Verdict::Believed(_)));
    assert_eq!(log.verifier.head(&SubjectKind::KeyRing.into()).version, 1);
    assert_eq!(log.verifier.head(&SubjectKind::Host(host(0)).into()).version, 1);
    let mut again = Verifier::new(log.verifier.ring().clone());
    again.learn(log.verifier.erased());
    assert!(matches!(again.check(Log::Events, &joined, Depth::Signatures), Ok(Verdict::Believed(_))));
}

#[test]
fn a_tombstone_for_what_is_not_written_yet_is_ignored() {
    let (mut log, _) = lived();
    let positions = vec![Span(Sequence(2), log.last().0)];
    let said = RecordsErased { cause: CAUSE, log: Log::Events, positions, starts: Vec::new() };
    assert!(matches!(bury(&mut log, said), Verdict::Ignored(_, Ignored::Tombstone)));
    assert_eq!(log.verifier.head(&sandbox_subject().into()).version, 2);
}

#[test]
fn only_commands_buries() {
    for (by, actor) in [
        (signer(Role::Worker, 0), Actor::Host(host(0))),
        (signer(Role::Gateway, 0), Actor::System(Role::Gateway)),
        (root(), Actor::Operator),
    ] {
        let (mut log, records) = lived();
        let said = tombstone(CAUSE, &records, Vec::new());
        let stored = log.next(&by, actor, SubjectKind::Erasure, vec![said.into()]);
        assert!(matches!(log.check(&stored), Ok(Verdict::Ignored(..))), "{actor:?}");
        assert_eq!(log.verifier.head(&sandbox_subject().into()).version, 2);
    }
}

#[test]
fn a_verifier_that_is_stored_and_read_back_knows_what_is_gone() {
    let (mut log, records) = lived();
    let start = end_of(&log, sandbox_subject());
    let next = late(&mut log, "sandbox.stopped", sandbox_subject());
    let said = tombstone(CAUSE, &records, vec![start]);
    bury(&mut log, said);
    let bytes = rmp_serde::to_vec_named(&log.verifier.state()).expect("it encodes");
    let state = rmp_serde::from_slice(&bytes).expect("it reads back");
    let mut resumed = Verifier::from_state(state).expect("no weak keys");
    assert!(matches!(resumed.check(Log::Events, &records[0], Depth::Signatures), Ok(Verdict::Erased)));
    let late = resumed.check(Log::Events, &next, Depth::Signatures);
    assert!(matches!(late, Ok(Verdict::Ignored(_, Ignored::Erased))), "{late:?}");
}

#[test]
fn a_tombstone_larger_than_a_record_becomes_several_that_say_the_same() {
    let count = SPANS_MAX as u64 * 3 + 1;
    // The largest numbers there are, so that nothing encodes to more.
    let positions: Positions = (0..count).map(|n| Sequence(u64::MAX - 2 * n)).collect();
    let starts: Vec<ChainStart> =
        (0..count).map(|n| ChainStart(u64::MAX - n, RecordHash([0xff; 32]))).collect();
    let parts = RecordsErased::split(CAUSE, Log::Events, &positions, &starts);
    assert_eq!(parts.len(), starts.len().div_ceil(STARTS_MAX));
    let mut said = Erased::default();
    for part in parts {
        let draft = Draft {
            commit: CommitId::from_bytes([1; 16]),
            subject: SubjectKind::Erasure.into(),
            at: Timestamp(u64::MAX),
            actor: Actor::System(Role::Commands),
            cause: None,
            events: vec![part.clone().into()],
        };
        signer(Role::Commands, 0).sign(&draft, &Head::EMPTY).expect("each fits into a record");
        said.add(&part);
    }
    for n in 0..count {
        let at = Sequence(u64::MAX - 2 * n);
        assert!(said.covers(Log::Events, at, at) && said.starts_after(u64::MAX - n, RecordHash([0xff; 32])));
    }
    assert!(RecordsErased::split(CAUSE, Log::Events, &Positions::default(), &[]).is_empty());
}

/// A store with these records, each where it says.
async fn stored(records: &[Stored]) -> MemoryLog {
    let log = MemoryLog::default();
    for stored in records {
        let expected = log.last(&stored.subject).await.expect("memory is up");
        let entry = Entry {
            subject: stored.subject.clone(),
            expected: expected.map_or(Sequence::NONE, |last| last.sequence),
            commit: CommitId::from_bytes([stored.sequence.0 as u8; 16]),
            record: stored.record.clone(),
        };
        assert_eq!(log.append_all(Batch::one(entry)).await.expect("one writer"), [stored.sequence]);
    }
    log
}

/// The same history before anything is removed, with a part removed, and removed whole reads alike, from nothing but the root key.
#[tokio::test]
async fn cut_off_anywhere_a_removal_reads_like_one_that_was_finished() {
    let mut written = Written::new();
    let ring = written.verifier.ring().clone();
    let keys = vec![enrolment(Role::Commands, 0).into(), enrolment(Role::Worker, 0).into()];
    let mut all = vec![written.next(&root(), Actor::Operator, SubjectKind::KeyRing, keys)];
    written.check(&all[0]).expect("the root key enrols");
    let (commands, worker) = (signer(Role::Commands, 0), signer(Role::Worker, 0));
    for (by, subject, name) in [
        (&commands, SubjectKind::Account(account()), "account.opened"),
        (&commands, SubjectKind::Admission(account()), "sandbox.requested"),
        (&worker, sandbox_subject(), "sandbox.claimed"),
        (&worker, sandbox_subject(), "sandbox.stopped"),
    ] {
        let actor = if by.id() == worker.id() { Actor::Host(host(0)) } else { Actor::System(Role::Commands) };
        let stored = written.next(by, actor, subject, vec![event(name)]);
        written.check(&stored).expect("it is honest");
        all.push(stored);
    }
    let doomed = all[1..].to_vec();
    let said = tombstone(CAUSE, &doomed, vec![end_of(&written, sandbox_subject())]);
    let buried =
        written.next(&commands, Actor::System(Role::Commands), SubjectKind::Erasure, vec![said.into()]);
    all.push(buried);
    for removed in 0..=doomed.len() {
        let log = stored(&all).await;
        for stored in &doomed[..removed] {
            log.purge_through(&stored.subject, stored.sequence).await.expect("memory is up");
        }
        let mut verifier = Verifier::new(ring.clone());
        verifier.learn(&tombstones(&log, ring.clone()).await.expect("they are believed"));
        let records =
            omnirun_events::log::read_to_end(&log, Log::Events, Filter::all(), Sequence::NONE).await;
        for stored in records.expect("memory is up") {
            let is_doomed = doomed.contains(&stored);
            match verifier.check(Log::Events, &stored, Depth::Signatures) {
                Ok(Verdict::Erased) => assert!(is_doomed),
                Ok(Verdict::Believed(_)) => assert!(!is_doomed),
                other => panic!("{removed}: {other:?}"),
            }
        }
        let subjects: Vec<String> =
            verifier.state().heads.iter().map(|(subject, _)| subject.to_string()).collect();
        assert_eq!(subjects, ["sys.erasure", "sys.keys"], "{removed}");
    }
}

#[test]
fn rubbish_before_what_is_left_of_a_chain_spoils_none_of_it() {
    let (mut log, records) = lived();
    let (ring, start) = (log.verifier.ring().clone(), end_of(&log, sandbox_subject()));
    let kept = late(&mut log, "sandbox.stopped", sandbox_subject());
    let said = tombstone(CAUSE, &records[2..], vec![start]);
    assert!(matches!(bury(&mut log, said), Verdict::Believed(_)));
    // Whoever reads from the beginning now.
    let mut verifier = Verifier::new(ring);
    verifier.learn(log.verifier.erased());
    let noise = Stored { record: bytes::Bytes::from_static(b"no record"), ..kept.clone() };
    assert!(verifier.check(Log::Events, &noise, Depth::Signatures).is_err());
    assert!(verifier.pass(Log::Events, &noise));
    let verdict = verifier.check(Log::Events, &kept, Depth::Signatures);
    assert!(verdict.is_ok(), "{verdict:?}");
}

proptest! {
    /// Ranges are a set: they hold what was put in, whatever the order and the overlaps.
    #[test]
    fn positions_are_a_set(spans in prop::collection::vec((0..60u64, 0..9u64), 0..20)) {
        let mut positions = Positions::default();
        let mut expected = std::collections::BTreeSet::new();
        for (first, count) in spans {
            positions.insert(Span(Sequence(first), count));
            expected.extend(first..first + count);
        }
        for at in 0..80 {
            prop_assert_eq!(positions.contains(Sequence(at)), expected.contains(&at), "{}", at);
        }
        prop_assert_eq!(positions.count(), expected.len() as u64);
        let spans: Vec<Span> = positions.spans().collect();
        prop_assert!(spans.windows(2).all(|pair| pair[0].last().next() < pair[1].0), "{:?}", spans);
    }
}
