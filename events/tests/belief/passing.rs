//! One host spoils what hosts write, and nothing else: readers go on.

use bytes::Bytes;
use omnirun_events::log::Stored;
use omnirun_events::verify::{FaultKind, Verdict};
use omnirun_events::*;

use crate::sample::*;

/// A sandbox of host 0, and the record that its host says next.
fn claimed() -> Written {
    let mut log = Written::enrolled();
    let claim = log.put(&signer(Role::Worker, 0), sandbox_subject(), vec![event("sandbox.claimed")]);
    assert!(matches!(claim, Ok(Verdict::Believed(_))));
    log
}

/// What whoever has a worker's access may file on a subject, well made or not.
fn rubbish(log: &mut Written, subject: SubjectKind) -> Vec<Stored> {
    let (worker, actor) = (signer(Role::Worker, 0), Actor::Host(host(0)));
    let stranger = log.next(&signer(Role::Worker, 9), actor, subject, vec![event("sandbox.stopped")]);
    let honest = log.next(&worker, actor, subject, vec![event("sandbox.stopped")]);
    let forged = match honest.record.split_last() {
        Some((last, rest)) => Bytes::from([rest, &[last ^ 1]].concat()),
        None => Bytes::new(),
    };
    let forged = Stored { record: forged, ..honest.clone() };
    let noise = Stored { record: Bytes::from_static(b"no record"), ..honest.clone() };
    // Its number and what it follows are of another history.
    let mut other = Written::enrolled();
    for _ in 0..4 {
        other.put(&worker, sandbox_subject(), vec![event("sandbox.claimed")]).expect("well made");
    }
    let out_of_turn = other.next(&worker, actor, sandbox_subject(), vec![event("sandbox.stopped")]);
    let out_of_turn = Stored { subject: subject.into(), ..out_of_turn };
    vec![stranger, forged, noise, out_of_turn]
}

#[test]
fn after_rubbish_on_a_hosts_subject_its_host_is_believed_as_before() {
    let mut log = claimed();
    let worker = signer(Role::Worker, 0);
    for (index, mut stored) in rubbish(&mut log.clone(), sandbox_subject()).into_iter().enumerate() {
        // Filed in the order of the log.
        stored.sequence =
            log.next(&worker, Actor::Operator, sandbox_subject(), vec![event("sandbox.failed")]).sequence;
        let before = log.verifier.head(&stored.subject);
        assert!(log.check(&stored).is_err(), "number {index} is not believed");
        assert!(log.verifier.pass(Log::Events, &stored), "number {index} is passed");
        let after = log.verifier.head(&stored.subject);
        assert_eq!((after.version, after.hash), (before.version, before.hash), "the chain is as it was");
        assert_eq!(after.sequence, stored.sequence, "the next writer expects it");
    }
    let started = log.put(&worker, sandbox_subject(), vec![event("sandbox.started")]);
    assert!(matches!(started, Ok(Verdict::Believed(_))), "{started:?}");
}

#[test]
fn rubbish_before_the_first_record_of_a_subject_is_passed_as_well() {
    let mut log = Written::enrolled();
    let worker = signer(Role::Worker, 0);
    let mut noise = log.next(&worker, Actor::Operator, sandbox_subject(), vec![event("sandbox.failed")]);
    noise.record = Bytes::from_static(b"no record");
    assert!(log.check(&noise).is_err() && log.verifier.pass(Log::Events, &noise));
    let claim = log.put(&worker, sandbox_subject(), vec![event("sandbox.claimed")]);
    assert!(matches!(claim, Ok(Verdict::Believed(_))), "{claim:?}");
    let metered = log.put(&worker, usage_subject(), vec![event("usage.metered")]);
    assert!(matches!(metered, Ok(Verdict::Believed(_))), "{metered:?}");
}

#[test]
fn a_sandbox_is_claimed_after_whatever_was_ignored_on_its_subject_and_not_after_its_end() {
    let mut log = Written::enrolled();
    let (worker, other) = (signer(Role::Worker, 0), signer(Role::Worker, 1));
    let foreign = log.put(&other, sandbox_subject(), vec![event("sandbox.stopped")]);
    assert!(matches!(foreign, Ok(Verdict::Ignored(..))), "{foreign:?}");
    let mut ended = log.clone();
    let claim = log.put(&worker, sandbox_subject(), vec![event("sandbox.claimed")]);
    assert!(matches!(claim, Ok(Verdict::Believed(_))), "{claim:?}");
    ended.put(&signer(Role::Commands, 0), sandbox_subject(), vec![event("sandbox.failed")]).expect("honest");
    let claim = ended.put(&worker, sandbox_subject(), vec![event("sandbox.claimed")]);
    assert!(matches!(claim, Ok(Verdict::Ignored(..))), "{claim:?}");
}

#[test]
fn what_the_system_alone_writes_is_never_passed() {
    let mut log = Written::enrolled();
    let kinds = [
        SubjectKind::Account(account()),
        SubjectKind::Admission(account()),
        SubjectKind::AccountKey(account()),
        SubjectKind::Registry,
        SubjectKind::KeyRing,
        SubjectKind::Erasure,
        SubjectKind::Ops,
    ];
    for kind in kinds {
        let mut noise =
            log.next(&signer(Role::Commands, 0), Actor::Operator, kind, vec![event("sandbox.failed")]);
        noise.record = Bytes::from_static(b"no record");
        let fault = log.check(&noise).expect_err("no record");
        assert!(matches!(fault.kind, FaultKind::Decode(_)));
        assert!(!log.verifier.pass(kind.log(), &noise), "{}", noise.subject);
    }
    let usage =
        log.next(&signer(Role::Worker, 0), Actor::Operator, usage_subject(), vec![event("sandbox.failed")]);
    assert!(!log.verifier.pass(Log::Events, &usage), "it is not of this log");
}
