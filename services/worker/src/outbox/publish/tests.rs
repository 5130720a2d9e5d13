//! The table of what is done with a draft.

use omnirun_events::envelope::{Actor, Role};
use omnirun_events::event::Event;
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

/// What these drafts make of their subject, one after the other.
fn history(drafts: &[Draft]) -> History {
    let signer = Signer::from_seed(&[1; 32], Role::Worker);
    drafts.iter().fold(History::EMPTY, |history, draft| {
        let signed = signer.sign(draft, &history.head).expect("a small draft");
        let sequence = history.head.sequence.next();
        let head = Head { sequence, version: signed.version, hash: signed.hash };
        history.then(head, draft.commit, &draft.events)
    })
}

#[test]
fn a_draft_follows_the_last_record_of_its_subject() {
    assert_eq!(decide(&ended(1), &History::EMPTY, false), Verdict::Append(Head::EMPTY));
    let there = history(&[ended(2), ended(3)]);
    assert_eq!(decide(&ended(1), &there, false), Verdict::Append(there.head));
}

#[test]
fn a_draft_that_the_log_has_is_not_appended_again_though_others_followed_it() {
    assert_eq!(decide(&ended(1), &history(&[ended(1), ended(2)]), false), Verdict::There);
    assert_eq!(decide(&ended(1), &history(&[ended(1)]), true), Verdict::There);
}

#[test]
fn nothing_is_said_about_a_final_sandbox_but_its_meter() {
    assert_eq!(decide(&ended(1), &history(&[ended(2)]), true), Verdict::Obsolete);
    assert_eq!(decide(&metered(1), &History::EMPTY, true), Verdict::Append(Head::EMPTY));
}

#[test]
fn a_reading_that_a_later_one_replaced_is_not_appended() {
    let there = history(&[metered(2)]);
    assert_eq!(decide(&metered(1), &there, false), Verdict::There);
    assert_eq!(decide(&metered(2), &there, false), Verdict::There);
    assert!(matches!(decide(&metered(3), &there, false), Verdict::Append(_)));
}
