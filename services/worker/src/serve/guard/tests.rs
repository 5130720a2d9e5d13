//! Who passes and who does not.

use omnirun_events::envelope::{Actor, Role};
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, CommitId};
use omnirun_events::keys::{Digest, KeyEnrolled};
use omnirun_events::log::Sequence;
use omnirun_events::sandbox::{
    Network, PauseRequested, SandboxClaimed, SandboxRequested, SandboxStarted, StartedFrom, StopRequested,
};
use omnirun_events::signing::Signer;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::unit::{Mebibytes, Millis, Seconds, Shape, StandardMillis, Vcpus};
use omnirun_projections::{Directory, Fact, Fold};

use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn account() -> AccountId {
    AccountId::from_bytes([2; 16])
}

fn host() -> HostId {
    HostId::from_bytes([3; 16])
}

fn id() -> SandboxId {
    SandboxId::from_bytes([1; 16])
}

fn gateway() -> Signer {
    Signer::from_seed(&[1; 32], Role::Gateway)
}

fn ring() -> KeyRing {
    let root = Signer::from_seed(&[9; 32], Role::Root);
    let mut ring = KeyRing::rooted_in(&root.public()).expect("a derived key is not weak");
    let enrolled =
        KeyEnrolled { key: gateway().id(), public: gateway().public(), role: Role::Gateway, host: None };
    ring.apply(&Event::KeyEnrolled(enrolled), Sequence(1), Timestamp::ZERO).expect("a good key");
    ring
}

/// A sandbox that this host has claimed, and what happened to it since.
fn sandboxes(since: &[Event]) -> Sandboxes {
    let requested = SandboxRequested {
        sandbox: id(),
        template: "base".to_owned(),
        shape: Shape { vcpus: Vcpus(1), memory: Mebibytes(256) },
        timeout: Seconds(60),
        reserved: StandardMillis(60_000),
        deadline: NOW,
        network: Network::Off,
        metadata: None,
    };
    let mut directory = Directory::default();
    let mut apply = |kind: SubjectKind, event: &Event| {
        let subject = Subject::from(kind);
        directory.apply(&Fact {
            sequence: Sequence(1),
            subject: &subject,
            kind,
            at: NOW,
            actor: Actor::Host(host()),
            commit: CommitId::from_bytes([0; 16]),
            event,
        });
    };
    apply(SubjectKind::Admission(account()), &requested.into());
    let own = SubjectKind::Sandbox(account(), id());
    apply(own, &SandboxClaimed { host: host() }.into());
    since.iter().for_each(|event| apply(own, event));
    directory.sandboxes
}

fn started() -> SandboxStarted {
    let digest = Digest([0; 32]);
    let (started_at, end_at) = (NOW, NOW.after(Millis(1_000)));
    SandboxStarted { started_at, end_at, from: StartedFrom::Pool, root: digest, kernel: digest }
}

fn capability() -> Capability {
    Capability {
        sandbox: id(),
        account: account(),
        verbs: vec![Verb::Use],
        expires_at: NOW.after(Millis(1_000)),
    }
}

#[track_caller]
fn check(path: &str, capability: &Capability, expected: Result<&str, Refused>) {
    let text = capability.sign(&gateway());
    let sandboxes = sandboxes(&[]);
    let found = super::check(path, Some(text.as_bytes()), &sandboxes, &ring(), host(), NOW);
    assert_eq!(found, expected.map(|rest| Passage { sandbox: id(), rest }), "{path}");
}

#[test]
fn a_capability_of_a_gateway_opens_its_own_sandbox() {
    check(&format!("/{}/files/list?path=%2F", id()), &capability(), Ok("/files/list?path=%2F"));
    let other = SandboxId::from_bytes([7; 16]);
    check(&format!("/{other}/code"), &capability(), Err(NOT_ALLOWED));
    check("/code", &capability(), Err(NOT_FOUND));
    check("/", &capability(), Err(NOT_FOUND));
}

#[test]
fn the_environment_needs_its_own_verb() {
    let (envs, code) = (format!("/{}/envs", id()), format!("/{}/code", id()));
    let prepare = Capability { verbs: vec![Verb::Prepare], ..capability() };
    check(&envs, &capability(), Err(NOT_ALLOWED));
    check(&format!("{envs}?x"), &capability(), Err(NOT_ALLOWED));
    check(&envs, &prepare, Ok("/envs"));
    check(&code, &prepare, Err(NOT_ALLOWED));
}

#[test]
fn a_capability_of_another_time_account_or_key_opens_nothing() {
    let path = format!("/{}/code", id());
    check(&path, &Capability { expires_at: Timestamp(1), ..capability() }, Err(EXPIRED));
    check(&path, &Capability { account: AccountId::from_bytes([8; 16]), ..capability() }, Err(NOT_FOUND));
    let forged = capability().sign(&Signer::from_seed(&[5; 32], Role::Gateway));
    for text in [Some(forged.as_bytes()), Some(b"\xff".as_slice()), Some(b"".as_slice()), None] {
        let found = super::check(&path, text, &sandboxes(&[]), &ring(), host(), NOW);
        assert_eq!(found, Err(NO_CAPABILITY));
    }
}

#[test]
fn a_sandbox_of_another_host_is_not_here_and_one_that_ends_is_not_open() {
    let (path, text) = (format!("/{}/code", id()), capability().sign(&gateway()));
    let check = |sandboxes: &Sandboxes, host| {
        super::check(&path, Some(text.as_bytes()), sandboxes, &ring(), host, NOW)
    };
    assert_eq!(check(&sandboxes(&[]), HostId::from_bytes([4; 16])), Err(NOT_FOUND));
    assert_eq!(check(&sandboxes(&[StopRequested {}.into()]), host()), Err(NOT_RUNNING));
    assert_eq!(check(&sandboxes(&[started().into(), PauseRequested {}.into()]), host()), Err(PAUSED));
    assert_eq!(check(&Sandboxes::default(), host()), Err(NOT_FOUND));
}
