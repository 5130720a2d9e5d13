//! Golden files: the bytes of every (name, version) ever written, and of one whole record. They never change.
//!
//! A new event, or a new version of one, gets its file by `OMNIRUN_WRITE_GOLDEN=1 cargo test -p omnirun-events golden`, which writes what is
//! missing and overwrites nothing. A test that fails here means that stored logs would be read differently: make a new version and
//! a step in `codec/upcast.rs` instead.

use std::fs;
use std::path::PathBuf;

use omnirun_events::auth::{ChallengeIssued, Purpose};
use omnirun_events::billing::StatementClosed;
use omnirun_events::event::{EventName, WRITTEN};
use omnirun_events::keys::MasterKeyRotated;
use omnirun_events::sandbox::{SandboxStopped, StopReason};
use omnirun_events::sealing::DataKey;
use omnirun_events::*;
use serde_bytes::ByteBuf;

use crate::sample::*;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn file_of(name: &str, version: u16) -> String {
    format!("{name}.v{version}.mp")
}

/// Compares with the golden file, after writing it if it is missing and that was asked for.
#[track_caller]
fn check(file: &str, written: &[u8]) {
    let path = path(file);
    if !path.exists() && std::env::var_os("OMNIRUN_WRITE_GOLDEN").is_some() {
        fs::write(&path, written).expect("the folder is ours");
    }
    let golden = fs::read(&path).unwrap_or_else(|_| panic!("golden/{file} is missing"));
    assert!(golden == written, "{file} changed: a stored event never does");
}

fn draft(events: Vec<Event>) -> Draft {
    Draft {
        commit: CommitId::from_bytes([0x99; 16]),
        subject: SubjectKind::Account(account()).into(),
        at: Timestamp(1_795_000_000_000),
        actor: Actor::Account(account()),
        cause: Some(CommitId::from_bytes([0x88; 16])),
        events,
    }
}

/// The bytes of one event as a record's payload holds them.
fn body(event: Event) -> Vec<u8> {
    let key = signer(Role::Commands, 0).id();
    let (_, payload) =
        codec::header_and_payload(&draft(vec![event]), &Head::EMPTY, key).expect("samples are small");
    let mut bodies: Vec<ByteBuf> = rmp_serde::from_slice(&payload).expect("a list of bodies");
    bodies.remove(0).into_vec()
}

/// The event that stored bytes of this name and version decode to.
fn read_back(name: &str, version: u16, body: Vec<u8>) -> Event {
    let stored = Event::Unknown { name: EventName(name.to_owned().into(), version), body };
    let signed = signer(Role::Commands, 0).sign(&draft(vec![stored]), &Head::EMPTY).expect("it is small");
    let mut record = codec::decode(&signed.bytes).expect("a golden body decodes");
    record.events.remove(0)
}

#[test]
fn golden_every_event_that_is_written_has_the_bytes_that_it_always_had() {
    for (name, version) in WRITTEN {
        check(&file_of(name, *version), &body(event(name)));
    }
}

/// What a sample of this version reads as today.
fn as_read(name: &str, version: u16) -> Event {
    match (event(name), version) {
        (Event::ChallengeIssued(issued), 1) => {
            ChallengeIssued { epoch: 20_780, purpose: Purpose::SignIn, ..issued }.into()
        }
        (Event::SandboxStopped(stopped), 1) => {
            SandboxStopped { reason: StopReason::TimedOut, ..stopped }.into()
        }
        (Event::StatementClosed(statement), 1) => StatementClosed { seen: Vec::new(), ..statement }.into(),
        (Event::MasterKeyRotated(rotated), 1) => {
            MasterKeyRotated { final_through: Sequence::NONE, ..rotated }.into()
        }
        (event, _) => event,
    }
}

#[test]
fn golden_every_event_ever_written_still_decodes() {
    let files = fs::read_dir(path("")).expect("the folder is there");
    for file in files.map(|file| file.expect("readable").file_name().into_string().expect("plain name")) {
        let Some((name, version)) = file.strip_suffix(".mp").and_then(|stem| stem.rsplit_once(".v")) else {
            panic!("{file} is no golden file");
        };
        if name == "record" {
            continue;
        }
        let version = version.parse().expect("a number");
        let event = read_back(name, version, fs::read(path(&file)).expect("readable"));
        assert!(!matches!(event, Event::Unknown { .. }), "{file} is not known any more");
        assert_eq!(event, as_read(name, version), "{file} reads differently");
    }
}

#[test]
fn golden_a_whole_record_has_the_bytes_that_it_always_had() {
    let head = Head { sequence: Sequence(41), version: 6, hash: RecordHash([0xab; 32]) };
    let events = vec![event("account.opened"), event("token.created")];
    let signed = signer(Role::Commands, 0).sign(&draft(events.clone()), &head).expect("it is small");
    check("record.v1.mp", &signed.bytes);
    let record = codec::decode(&signed.bytes).expect("it was just encoded");
    assert_eq!((record.events, record.header.version), (events, 7));
}

#[test]
fn golden_a_sealed_field_still_opens() {
    let Event::AccountOpened(opened) =
        read_back("account.opened", 1, fs::read(path("account.opened.v1.mp")).expect("it was written once"))
    else {
        panic!("it is an account's beginning");
    };
    let subject = SubjectKind::Account(account()).into();
    let plain = DataKey::from_bytes([0x11; 32]).open(&opened.email, &subject, "email");
    assert_eq!(plain.as_deref(), Ok(b"sealed text".as_slice()));
}

#[test]
fn an_event_of_a_newer_build_passes_through_unknown() {
    let event = read_back("vault.opened", 3, vec![0x80]);
    assert_eq!(event, Event::Unknown { name: EventName("vault.opened".into(), 3), body: vec![0x80] });
}
