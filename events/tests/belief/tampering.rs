//! A stored log that was changed in any way is not believed.

use bytes::Bytes;
use omnirun_events::log::Stored;
use omnirun_events::verify::{FaultKind, Verdict};
use omnirun_events::*;

use crate::sample::*;

/// The verifier's log after the records before `index`.
fn before(records: &[Stored], index: usize) -> Written {
    let mut log = Written::new();
    for stored in &records[..index] {
        assert!(matches!(log.check(stored), Ok(Verdict::Believed(_))));
    }
    log
}

/// What is wrong with the first bad record of a history, if one is.
fn first_fault(records: &[Stored]) -> Option<FaultKind> {
    let mut log = Written::new();
    records.iter().find_map(|stored| log.check(stored).err()).map(|fault| fault.kind)
}

#[test]
fn the_sample_log_is_believed_as_it_is() {
    assert!(first_fault(&honest_log()).is_none());
}

#[test]
fn a_change_of_any_byte_is_refused() {
    let records = honest_log();
    for (index, stored) in records.iter().enumerate() {
        let log = before(&records, index);
        for at in 0..stored.record.len() {
            for change in [0x01, 0x1d, 0x80, 0xff] {
                let mut bytes = stored.record.to_vec();
                bytes[at] ^= change;
                let changed = Stored { record: Bytes::from(bytes), ..stored.clone() };
                let verdict = log.clone().check(&changed);
                assert!(verdict.is_err(), "record {index}, byte {at} ^ {change:#x}: {verdict:?}");
            }
        }
    }
}

#[test]
fn bytes_before_after_or_missing_are_refused() {
    let records = honest_log();
    for (index, stored) in records.iter().enumerate() {
        let whole = stored.record.as_ref();
        for bytes in
            [[whole, &[0]].concat(), [&[0], whole].concat(), whole[..whole.len() - 1].to_vec(), vec![]]
        {
            let changed = Stored { record: Bytes::from(bytes), ..stored.clone() };
            assert!(before(&records, index).check(&changed).is_err(), "record {index}");
        }
    }
}

#[test]
fn a_record_that_is_missing_doubled_or_moved_is_found() {
    let subject = Subject::from(sandbox_subject());
    let honest = honest_log();
    let own: Vec<usize> = (0..honest.len()).filter(|index| honest[*index].subject == subject).collect();
    let [first, second, third, ..] = own[..] else { panic!("the sample has four records of the sandbox") };

    let mut dropped = honest.clone();
    dropped.remove(second);
    assert!(matches!(first_fault(&dropped), Some(FaultKind::Gap { last: 1, found: 3, .. })));

    let mut doubled = honest.clone();
    doubled.insert(third, honest[second].clone());
    assert!(matches!(first_fault(&doubled), Some(FaultKind::Gap { last: 2, found: 2, .. })));

    let mut swapped = honest.clone();
    swapped.swap(second, third);
    assert!(matches!(first_fault(&swapped), Some(FaultKind::Gap { last: 1, found: 3, .. })));

    let mut beheaded = honest;
    beheaded.remove(first);
    assert!(matches!(first_fault(&beheaded), Some(FaultKind::Gap { last: 0, found: 2, .. })));
}

#[test]
fn a_record_of_another_history_breaks_the_chain() {
    let worker = signer(Role::Worker, 0);
    let mut one = Written::enrolled();
    one.put(&worker, sandbox_subject(), vec![event("sandbox.claimed")]).expect("its own");
    let mut other = one.clone();
    one.put(&worker, sandbox_subject(), vec![event("sandbox.started")]).expect("its own");
    other.put(&worker, sandbox_subject(), vec![event("sandbox.failed")]).expect("its own");
    let foreign =
        other.next(&worker, Actor::Host(host(0)), sandbox_subject(), vec![event("sandbox.stopped")]);
    let fault = one.check(&foreign).expect_err("its writer saw another record before it");
    assert!(matches!(fault.kind, FaultKind::Chain { .. }), "{:?}", fault.kind);
}

#[test]
fn a_record_filed_elsewhere_is_refused() {
    let mut log = Written::enrolled();
    let mut stored = log.next(
        &signer(Role::Commands, 0),
        Actor::Account(account()),
        SubjectKind::Registry,
        vec![event("address.claimed")],
    );
    stored.subject = SubjectKind::Ops.into();
    let fault = log.check(&stored).expect_err("its header says where it belongs");
    assert!(matches!(fault.kind, FaultKind::Subject { .. }));
}

#[test]
fn a_record_in_another_log_is_refused() {
    use omnirun_events::verify::Depth;
    let mut log = Written::enrolled();
    let stored = log.next(
        &signer(Role::Commands, 0),
        Actor::Account(account()),
        SubjectKind::Registry,
        vec![event("address.claimed")],
    );
    let fault = log.verifier.check(Log::Keys, &stored, Depth::Signatures).expect_err("it is EVENTS's");
    assert!(matches!(fault.kind, FaultKind::Log { .. }));
}
