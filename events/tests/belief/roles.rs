//! Who may say what, where, and for whom.

use omnirun_events::event::WRITTEN;
use omnirun_events::keys::{KeyEnrolled, KeyRetired};
use omnirun_events::sandbox::SandboxClaimed;
use omnirun_events::signing::Signer;
use omnirun_events::verify::{FaultKind, Ignored, Verdict, Verifier};
use omnirun_events::*;

use crate::sample::*;

#[track_caller]
fn believed(log: &mut Written, by: &Signer, subject: SubjectKind, events: Vec<Event>) {
    let verdict = log.put(by, subject, events);
    assert!(matches!(verdict, Ok(Verdict::Believed(_))), "{verdict:?}");
}

#[track_caller]
fn ignored(log: &mut Written, by: &Signer, subject: SubjectKind, events: Vec<Event>, why: Ignored) {
    match log.put(by, subject, events) {
        Ok(Verdict::Ignored(_, found)) => assert_eq!(found, why),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn faulty(log: &mut Written, by: &Signer, subject: SubjectKind, events: Vec<Event>) -> FaultKind {
    log.put(by, subject, events).expect_err("it is a fault").kind
}

/// A log in which host 0 has claimed the sandbox.
fn claimed() -> Written {
    let mut log = Written::enrolled();
    believed(&mut log, &signer(Role::Worker, 0), sandbox_subject(), vec![event("sandbox.claimed")]);
    log
}

/// The roles of each event as `docs` and people expect them; the program's own table is compared with this one.
#[test]
fn the_table_of_roles_is_the_agreed_one() {
    for (name, _) in WRITTEN {
        let expected: &[Role] = match *name {
            "sandbox.failed" | "sandbox.stopped" => &[Role::Commands, Role::Worker],
            "sandbox.claimed" | "sandbox.started" | "sandbox.paused" => &[Role::Worker],
            "usage.metered" | "host.joined" | "host.left" | "host.caught_up" => &[Role::Worker],
            "key.enrolled" | "key.retired" => &[Role::Root],
            _ => &[Role::Commands],
        };
        for role in [Role::Root, Role::Commands, Role::Worker, Role::Gateway] {
            let may = Event::may_be_said_by(&event(name).name(), role);
            assert_eq!(may, expected.contains(&role), "{name} by {role:?}");
        }
    }
}

#[test]
fn a_worker_speaks_for_what_it_claimed() {
    let mut log = claimed();
    let worker = signer(Role::Worker, 0);
    believed(&mut log, &worker, sandbox_subject(), vec![event("sandbox.started")]);
    believed(&mut log, &worker, usage_subject(), vec![event("usage.metered")]);
    believed(&mut log, &worker, SubjectKind::Host(host(0)), vec![event("host.joined")]);
}

#[test]
fn a_worker_that_speaks_for_anothers_sandbox_is_ignored() {
    let other = signer(Role::Worker, 1);
    for (subject, name) in [
        (sandbox_subject(), "sandbox.stopped"),
        (usage_subject(), "usage.metered"),
        (SubjectKind::Host(host(0)), "host.left"),
    ] {
        ignored(&mut claimed(), &other, subject, vec![event(name)], Ignored::ForeignHost);
    }
}

#[test]
fn a_host_that_was_given_up_has_no_word_on_its_sandbox_any_more_and_its_readings_stay() {
    let mut log = claimed();
    let (commands, worker) = (signer(Role::Commands, 0), signer(Role::Worker, 0));
    believed(&mut log, &worker, usage_subject(), vec![event("usage.metered")]);
    believed(&mut log, &commands, sandbox_subject(), vec![event("sandbox.stopped")]);
    let stored = log.verifier.state();
    log.verifier = Verifier::from_state(stored).expect("it was just made");
    ignored(&mut log, &worker, sandbox_subject(), vec![event("sandbox.stopped")], Ignored::ForeignHost);
    believed(&mut log, &worker, usage_subject(), vec![event("usage.metered")]);
    believed(&mut log, &worker, SubjectKind::Host(host(0)), vec![event("host.joined")]);
}

#[test]
fn a_second_claim_changes_no_owner() {
    let mut log = claimed();
    let claim = vec![SandboxClaimed { host: host(1) }.into()];
    ignored(&mut log, &signer(Role::Worker, 1), sandbox_subject(), claim, Ignored::ForeignHost);
    assert_eq!(log.verifier.owner(sandbox_subject()), Some(host(0)));
}

#[test]
fn a_worker_claims_for_itself_alone() {
    for hosts in [vec![1], vec![1, 0], vec![0, 1]] {
        let mut log = Written::enrolled();
        let claims = hosts.into_iter().map(|n| SandboxClaimed { host: host(n) }.into()).collect();
        ignored(&mut log, &signer(Role::Worker, 0), sandbox_subject(), claims, Ignored::ForeignHost);
        assert_eq!(log.verifier.owner(sandbox_subject()), None);
    }
}

#[test]
fn a_sandbox_that_failed_before_its_claim_cannot_be_claimed() {
    let mut log = Written::enrolled();
    believed(&mut log, &signer(Role::Commands, 0), sandbox_subject(), vec![event("sandbox.failed")]);
    let claim = vec![event("sandbox.claimed")];
    ignored(&mut log, &signer(Role::Worker, 0), sandbox_subject(), claim, Ignored::ForeignHost);
}

#[test]
fn a_worker_that_acts_as_somebody_else_is_ignored() {
    for actor in [Actor::Host(host(1)), Actor::Account(account()), Actor::Operator] {
        let mut log = claimed();
        let stored =
            log.next(&signer(Role::Worker, 0), actor, sandbox_subject(), vec![event("sandbox.started")]);
        let verdict = log.check(&stored);
        assert!(matches!(verdict, Ok(Verdict::Ignored(_, Ignored::Actor))), "{verdict:?}");
    }
}

#[test]
fn commands_neither_claims_nor_acts_as_a_host() {
    let commands = signer(Role::Commands, 0);
    let mut log = Written::enrolled();
    let claim = vec![event("sandbox.claimed")];
    ignored(&mut log, &commands, sandbox_subject(), claim, Ignored::Role(Role::Commands));
    let stored = log.next(&commands, Actor::Host(host(0)), sandbox_subject(), vec![event("sandbox.failed")]);
    assert!(matches!(log.check(&stored), Ok(Verdict::Ignored(_, Ignored::Actor))));
}

#[test]
fn one_foreign_event_makes_the_whole_record_ignored() {
    let events = vec![event("sandbox.stop_requested"), event("sandbox.started")];
    let why = Ignored::Role(Role::Commands);
    ignored(&mut claimed(), &signer(Role::Commands, 0), sandbox_subject(), events, why);
}

#[test]
fn a_gateway_key_says_nothing_on_the_log() {
    let gateway = signer(Role::Gateway, 0);
    for event in every_event() {
        let subject = SubjectKind::Account(account());
        ignored(&mut Written::enrolled(), &gateway, subject, vec![event], Ignored::Role(Role::Gateway));
    }
}

#[test]
fn only_the_root_key_speaks_on_the_key_ring_and_only_there() {
    let mut log = Written::enrolled();
    let keys = vec![enrolment(Role::Worker, 2).into()];
    let why = Ignored::Role(Role::Commands);
    ignored(&mut log, &signer(Role::Commands, 0), SubjectKind::KeyRing, keys.clone(), why);
    ignored(&mut log, &root(), SubjectKind::Ops, keys, Ignored::Role(Role::Root));
    assert!(log.verifier.ring().get(enrolment(Role::Worker, 2).key).is_none());
}

#[test]
fn the_chain_goes_on_through_an_ignored_record() {
    let mut log = claimed();
    let stopped = vec![event("sandbox.stopped")];
    ignored(&mut log, &signer(Role::Worker, 1), sandbox_subject(), stopped, Ignored::ForeignHost);
    believed(&mut log, &signer(Role::Worker, 0), sandbox_subject(), vec![event("sandbox.started")]);
}

#[test]
fn a_key_that_was_never_enrolled_is_a_fault() {
    let stranger = signer(Role::Commands, 5);
    let kind =
        faulty(&mut Written::enrolled(), &stranger, SubjectKind::Registry, vec![event("address.claimed")]);
    assert!(matches!(kind, FaultKind::UnknownKey { key } if key == stranger.id()), "{kind:?}");
}

#[test]
fn an_enrolled_key_in_another_role_is_a_fault() {
    let same_secret = Signer::from_seed(&[Role::Commands as u8 * 16 + 1; 32], Role::Worker);
    let kind =
        faulty(&mut Written::enrolled(), &same_secret, sandbox_subject(), vec![event("sandbox.claimed")]);
    assert!(matches!(kind, FaultKind::UnknownKey { .. }), "{kind:?}");
}

#[test]
fn a_retired_key_is_believed_before_its_retirement_and_not_after() {
    let mut log = claimed();
    let worker = signer(Role::Worker, 0);
    let retired = KeyRetired { key: worker.id() };
    believed(&mut log, &worker, sandbox_subject(), vec![event("sandbox.started")]);
    believed(&mut log, &root(), SubjectKind::KeyRing, vec![retired.into()]);
    ignored(&mut log, &worker, sandbox_subject(), vec![event("sandbox.stopped")], Ignored::Retired);
    // Others go on after it.
    believed(&mut log, &signer(Role::Commands, 0), sandbox_subject(), vec![event("sandbox.stop_requested")]);
    let again = vec![enrolment(Role::Worker, 0).into()];
    believed(&mut log, &root(), SubjectKind::KeyRing, again);
    assert!(log.verifier.ring().get(worker.id()).is_some_and(|entry| entry.retired_at.is_some()));
}

#[test]
fn a_retired_key_says_nothing_in_the_usage_logs_either() {
    let mut log = claimed();
    let worker = signer(Role::Worker, 0);
    believed(&mut log, &worker, usage_subject(), vec![event("usage.metered")]);
    let (host, metered) = (Actor::Host(host(0)), || vec![event("usage.metered")]);
    let before = log.next(&worker, host, usage_subject(), metered());
    believed(&mut log, &root(), SubjectKind::KeyRing, vec![KeyRetired { key: worker.id() }.into()]);
    // Said before and read after: what a key said while it was believed stays.
    assert!(matches!(log.check(&before), Ok(Verdict::Believed(_))));
    ignored(&mut log, &worker, usage_subject(), metered(), Ignored::Retired);
}

#[test]
fn enrolments_that_cannot_be_accepted_are_ignored_whole() {
    let good = enrolment(Role::Worker, 7);
    let cases: Vec<(Event, &str)> = vec![
        (enrolment(Role::Root, 1).into(), "second root"),
        (KeyEnrolled { host: None, ..enrolment(Role::Worker, 8) }.into(), "name a host"),
        (KeyEnrolled { host: Some(host(1)), ..enrolment(Role::Commands, 8) }.into(), "name a host"),
        (KeyEnrolled { key: good.key, ..enrolment(Role::Worker, 8) }.into(), "does not belong"),
        (KeyRetired { key: root().id() }.into(), "cannot be retired"),
    ];
    for (event, reason) in cases {
        let mut log = Written::enrolled();
        match log.put(&root(), SubjectKind::KeyRing, vec![good.clone().into(), event]) {
            Ok(Verdict::Ignored(_, Ignored::Enrolment(why))) => assert!(why.contains(reason), "{why}"),
            other => panic!("{reason}: {other:?}"),
        }
        assert!(log.verifier.ring().get(good.key).is_none(), "{reason}: a part was followed");
    }
}
