//! The table of what is done with a draft.

use omnirun_events::envelope::{Actor, Role};
use omnirun_events::id::{AccountId, CommitId, HostId, SandboxId};
use omnirun_events::sandbox::{FailReason, SandboxFailed};
use omnirun_events::subject::Slot;
use omnirun_events::unit::Timestamp;
use omnirun_events::usage::{Meter, UsageMetered};

use super::*;

fn draft(subject: SubjectKind, commit: u8, event: impl Into<Event>) -> Draft {
    Draft {
        commit: CommitId::from_bytes([commit; 16]),
        subject: subject.into(),
        at: Timestamp(1),
        actor: Actor::Host(HostId::from_bytes([1; 16])),
        cause: None,
        events: vec![event.into()],
    }
}

fn ended(commit: u8) -> Draft {
    let kind = SubjectKind::Sandbox(AccountId::from_bytes([1; 16]), SandboxId::from_bytes([2; 16]));
    draft(kind, commit, SandboxFailed { reason: FailReason::BootFailed })
}

fn metered(period: u32) -> Draft {
    let slot = Slot::of(Timestamp(0));
    let kind = SubjectKind::Usage(slot, AccountId::from_bytes([1; 16]), SandboxId::from_bytes([2; 16]));
    let reading = UsageMetered { period, observed_at: Timestamp(1), meter: Meter::default() };
    draft(kind, period as u8, reading)
}

/// The records of these drafts, one after the other.
fn records(drafts: &[Draft]) -> Vec<Placed> {
    let signer = Signer::from_seed(&[1; 32], Role::Worker);
    let mut head = Head::EMPTY;
    let mut placed = Vec::new();
    for draft in drafts {
        let signed = signer.sign(draft, &head).expect("a small draft");
        let record = codec::decode(&signed.bytes).expect("just encoded");
        let sequence = head.sequence.next();
        head = record.head(sequence);
        placed.push((sequence, record));
    }
    placed
}

#[test]
fn a_draft_follows_the_last_record_of_its_subject() {
    assert_eq!(decide(&ended(1), &[], false), Verdict::Append(Head::EMPTY));
    let there = records(&[ended(2), ended(3)]);
    let (sequence, last) = &there[1];
    assert_eq!(decide(&ended(1), &there, false), Verdict::Append(last.head(*sequence)));
}

#[test]
fn a_draft_that_the_log_has_is_not_appended_again_though_others_followed_it() {
    assert_eq!(decide(&ended(1), &records(&[ended(1), ended(2)]), false), Verdict::There);
    assert_eq!(decide(&ended(1), &records(&[ended(1)]), true), Verdict::There);
}

#[test]
fn nothing_is_said_about_a_final_sandbox_but_its_meter() {
    assert_eq!(decide(&ended(1), &records(&[ended(2)]), true), Verdict::Obsolete);
    assert_eq!(decide(&metered(1), &[], true), Verdict::Append(Head::EMPTY));
}

#[test]
fn a_reading_that_a_later_one_replaced_is_not_appended() {
    let there = records(&[metered(2)]);
    assert_eq!(decide(&metered(1), &there, false), Verdict::There);
    assert_eq!(decide(&metered(2), &there, false), Verdict::There);
    assert!(matches!(decide(&metered(3), &there, false), Verdict::Append(_)));
}
