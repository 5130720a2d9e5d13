//! The laws of every fold, over made-up histories: total, the same in every allowed order, the same from any resume point.

use std::collections::BTreeMap;

use omnirun_events::account::{AccountClosed, AccountClosing, AccountOpened, AccountQuiet};
use omnirun_events::event::Event;
use omnirun_events::host::{HostJoined, HostLeft, HostTemplate};
use omnirun_events::keys::Digest;
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::subject::{Slot, SubjectKind};
use omnirun_events::token::*;
use omnirun_events::unit::*;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::{
    AccountId, Actor, CommitId, HostId, ReceiptId, Role, SandboxId, Sequence, Subject, TokenId,
};
use omnirun_projections::{Directory, Fact, Fold, Usage};
use proptest::prelude::*;

/// One event somewhere, sometime.
#[derive(Debug, Clone)]
struct Step {
    kind: SubjectKind,
    at: u64,
    commit: u8,
    event: Event,
}

fn fold<F: Fold>(mut state: F, steps: &[Step]) -> F {
    for (index, step) in steps.iter().enumerate() {
        let subject = Subject::from(step.kind);
        state.apply(&Fact {
            sequence: Sequence(index as u64 + 1),
            subject: &subject,
            kind: step.kind,
            at: Timestamp(step.at),
            actor: Actor::System(Role::Commands),
            commit: CommitId::from_bytes([step.commit; 16]),
            event: &step.event,
        });
    }
    state
}

fn account() -> impl Strategy<Value = AccountId> {
    (0..3u8).prop_map(|n| AccountId::from_bytes([n; 16]))
}

fn sandbox() -> impl Strategy<Value = SandboxId> {
    (0..3u8).prop_map(|n| SandboxId::from_bytes([n; 16]))
}

fn subject() -> impl Strategy<Value = SubjectKind> {
    let token = (0..3u8).prop_map(|n| TokenId::from_bytes([n; 16]));
    prop_oneof![
        account().prop_map(SubjectKind::Account),
        account().prop_map(SubjectKind::Admission),
        (account(), token).prop_map(|(a, t)| SubjectKind::Token(a, t)),
        (account(), sandbox()).prop_map(|(a, s)| SubjectKind::Sandbox(a, s)),
        (account(), sandbox()).prop_map(|(a, s)| {
            SubjectKind::Usage(Slot::from_index(0).expect("there are fourteen"), a, s)
        }),
        (0..2u8).prop_map(|n| SubjectKind::Host(HostId::from_bytes([n; 16]))),
        Just(SubjectKind::Registry),
    ]
}

/// Amounts at the edges, where arithmetic goes wrong.
fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..100_000u64]
}

fn meter() -> impl Strategy<Value = Meter> {
    (amount(), amount(), amount(), amount()).prop_map(|(wall, vcpu, memory, sent)| Meter {
        wall: Millis(wall),
        vcpu: Millis(vcpu),
        memory: MebibyteSeconds(memory),
        received: Bytes(0),
        sent: Bytes(sent),
    })
}

fn requested(sandbox: SandboxId, vcpus: u8, amount: u64) -> SandboxRequested {
    SandboxRequested {
        sandbox,
        template: format!("template-{vcpus}"),
        shape: Shape { vcpus: Vcpus(vcpus), memory: Mebibytes(u32::from(vcpus) * 999) },
        timeout: Seconds(60),
        reserved: StandardMillis(amount),
        deadline: Timestamp(amount),
        network: Network::Off,
        metadata: None,
    }
}

fn started(at: u64, end: u64) -> SandboxStarted {
    let digest = Digest([0; 32]);
    SandboxStarted {
        started_at: Timestamp(at),
        end_at: Timestamp(end),
        from: StartedFrom::Boot,
        root: digest,
        kernel: digest,
    }
}

fn stopped(at: u64, meter: Meter) -> SandboxStopped {
    SandboxStopped { reason: StopReason::Requested, stopped_at: Timestamp(at), meter, teardown: Millis(1) }
}

fn paused(at: u64, end: u64, meter: Meter) -> SandboxPaused {
    SandboxPaused { paused_at: Timestamp(at), end_at: Timestamp(end), meter }
}

fn event() -> impl Strategy<Value = Event> {
    let sealed = Sealed { key: DataKeyLabel::Account, nonce: [0; 24], text: vec![1] };
    let opened = AccountOpened { email: sealed, plan: "free".to_owned() };
    let joined = HostJoined {
        address: "127.0.0.1:1".to_owned(),
        certificate: Digest([1; 32]),
        sandboxes_max: 1,
        vcpus_max: Vcpus(1),
        memory_max: Mebibytes(1),
        monitor: "qemu-tcg".to_owned(),
        templates: vec![HostTemplate { name: "base".to_owned(), root: Digest([1; 32]) }],
    };
    let token = (0..3u8, 0..3u8).prop_map(|(n, verifier)| TokenCreated {
        token: TokenId::from_bytes([n; 16]),
        kind: TokenKind::Api,
        verifier: TokenVerifier([verifier; 32]),
        name: None,
        scopes: vec![Scope::UsageRead],
        hint: String::new(),
        expires_at: None,
    });
    prop_oneof![
        Just(opened.into()),
        Just(joined.into()),
        Just(HostLeft {}.into()),
        token.prop_map(Event::from),
        Just(TokenRevoked { reason: RevokeReason::ByOwner }.into()),
        (sandbox(), any::<u8>(), amount()).prop_map(|(s, vcpus, n)| requested(s, vcpus, n).into()),
        (sandbox(), amount()).prop_map(|(sandbox, n)| {
            TimeoutExtended { sandbox, end_at: Timestamp(n), reserved: StandardMillis(n) }.into()
        }),
        (sandbox(), amount()).prop_map(|(sandbox, n)| {
            SandboxResumed { sandbox, end_at: Timestamp(n), reserved: StandardMillis(n) }.into()
        }),
        Just(PauseRequested {}.into()),
        (amount(), amount(), meter()).prop_map(|(at, end, meter)| paused(at, end, meter).into()),
        Just(StopRequested {}.into()),
        (0..2u8).prop_map(|n| SandboxClaimed { host: HostId::from_bytes([n; 16]) }.into()),
        (amount(), amount()).prop_map(|(at, end)| started(at, end).into()),
        (amount(), meter()).prop_map(|(at, meter)| stopped(at, meter).into()),
        Just(SandboxFailed { reason: FailReason::NoCapacity }.into()),
        (any::<u32>(), amount(), meter()).prop_map(|(period, at, meter)| {
            UsageMetered { period, observed_at: Timestamp(at), meter }.into()
        }),
    ]
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let step = (subject(), amount(), any::<u8>(), event()).prop_map(|(kind, at, commit, event)| Step {
        kind,
        at,
        commit,
        event,
    });
    prop::collection::vec(step, 0..80)
}

/// The steps as a reader of two logs may see them: each log in order, and `choices` saying which comes next. A reading comes after what was
/// requested for its account, as the runner sees to.
fn interleaved(steps: &[Step], choices: &[bool]) -> Vec<Step> {
    let is_usage = |step: &&Step| matches!(step.kind, SubjectKind::Usage(..));
    let (usage, events): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(is_usage);
    let (mut usage, mut events) = (usage.into_iter().peekable(), events.into_iter().peekable());
    let is_request = |step: &&Step| {
        matches!((step.kind, &step.event), (SubjectKind::Admission(_), Event::SandboxRequested(_)))
    };
    let mut requests = events.clone().filter(is_request).count();
    let mut order: Vec<Step> = Vec::new();
    for first in choices {
        let next = if *first && requests == 0 { usage.next() } else { events.next() };
        requests -= usize::from(next.as_ref().is_some_and(is_request));
        order.extend(next.cloned());
    }
    order.extend(events.chain(usage).cloned());
    order
}

/// The step with ids that no other account has, as it is where ids are random.
fn with_own_ids(mut step: Step) -> Step {
    let Some(account) = step.kind.account() else { return step };
    let own = |bytes: &[u8; 16]| [account.as_bytes()[0] * 16 + bytes[0]; 16];
    let own_sandbox = |id: SandboxId| SandboxId::from_bytes(own(id.as_bytes()));
    step.kind = match step.kind {
        SubjectKind::Token(a, t) => SubjectKind::Token(a, TokenId::from_bytes(own(t.as_bytes()))),
        SubjectKind::Sandbox(a, s) => SubjectKind::Sandbox(a, own_sandbox(s)),
        SubjectKind::Usage(slot, a, s) => SubjectKind::Usage(slot, a, own_sandbox(s)),
        kind => kind,
    };
    match &mut step.event {
        Event::SandboxRequested(requested) => requested.sandbox = own_sandbox(requested.sandbox),
        Event::TimeoutExtended(extended) => extended.sandbox = own_sandbox(extended.sandbox),
        Event::SandboxResumed(resumed) => resumed.sandbox = own_sandbox(resumed.sandbox),
        Event::TokenCreated(created) => {
            created.token = TokenId::from_bytes(own(created.token.as_bytes()));
            created.verifier.0[31] = account.as_bytes()[0] + 100;
        }
        _ => {}
    }
    step
}

/// What may still be said of an account that was closed: by hosts that are late, about sandboxes.
fn may_be_late(step: &Step) -> bool {
    matches!(step.kind, SubjectKind::Sandbox(..) | SubjectKind::Usage(..))
}

/// The history in which account 0 is closed after `at` steps, and the same as it is on the log once the account was erased.
fn closing(steps: Vec<Step>, at: usize) -> (Vec<Step>, Vec<Step>) {
    let closed = AccountId::from_bytes([0; 16]);
    let is_its = |step: &Step| step.kind.account() == Some(closed);
    let mut steps: Vec<Step> = steps.into_iter().map(with_own_ids).collect();
    let rest = steps.split_off(at.min(steps.len()));
    let receipt = ReceiptId::from_bytes([7; 16]);
    for event in [AccountClosing { receipt }.into(), AccountQuiet {}.into(), AccountClosed { receipt }.into()]
    {
        steps.push(Step { kind: SubjectKind::Account(closed), at: 1, commit: 1, event });
    }
    steps.extend(rest.into_iter().filter(|step| !is_its(step) || may_be_late(step)));
    let purged = steps.iter().filter(|step| !is_its(step)).cloned().collect();
    (steps, purged)
}

fn resumed<F: Fold>(steps: &[Step], at: usize) -> F {
    let half: F = fold(F::default(), &steps[..at]);
    let stored = rmp_serde::to_vec_named(&half).expect("states encode");
    fold(rmp_serde::from_slice(&stored).expect("states read back"), &steps[at..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing that a log can hold makes a fold or what is read from it panic.
    #[test]
    fn folds_are_total(steps in history()) {
        let directory: Directory = fold(Directory::default(), &steps);
        for (_, sandbox) in directory.sandboxes.live() {
            sandbox.charged();
        }
        let _: Usage = fold(Usage::default(), &steps);
    }

    #[test]
    fn usage_is_the_same_in_any_interleaving_of_its_logs(
        steps in history(),
        choices in prop::collection::vec(any::<bool>(), 0..80),
    ) {
        let straight: Usage = fold(Usage::default(), &interleaved(&steps, &[]));
        let mixed: Usage = fold(Usage::default(), &interleaved(&steps, &choices));
        prop_assert_eq!(straight.digest(), mixed.digest());
    }

    /// A checkpoint anywhere changes nothing, and equal states are equal bytes.
    #[test]
    fn a_fold_that_is_stored_and_resumed_equals_one_that_was_not(steps in history(), at in any::<prop::sample::Index>()) {
        let at = at.index(steps.len() + 1);
        let directory: Directory = fold(Directory::default(), &steps);
        prop_assert_eq!(directory.digest(), resumed::<Directory>(&steps, at).digest());
        let usage: Usage = fold(Usage::default(), &steps);
        prop_assert_eq!(usage.digest(), resumed::<Usage>(&steps, at).digest());
    }

    /// A closed account leaves nothing behind: what has seen it come and go is what never saw it.
    #[test]
    fn a_closed_account_leaves_no_residue(
        steps in history(),
        at in 0..80usize,
        choices in prop::collection::vec(any::<bool>(), 0..80),
    ) {
        let (lived, purged) = closing(steps, at);
        let live: Directory = fold(Directory::default(), &lived);
        let rebuilt: Directory = fold(Directory::default(), &purged);
        prop_assert_eq!(live.digest(), rebuilt.digest());
        let live: Usage = fold(Usage::default(), &interleaved(&lived, &choices));
        let rebuilt: Usage = fold(Usage::default(), &interleaved(&purged, &[]));
        prop_assert_eq!(live.digest(), rebuilt.digest());
    }

    /// A tombstone drops as much as the closing, for those who never saw the closing.
    #[test]
    fn forgetting_every_subject_of_an_account_leaves_no_residue(steps in history()) {
        let (lived, purged) = closing(steps, 80);
        let before: Vec<Step> = lived.iter().filter(|step| !matches!(step.event, Event::AccountClosed(_))).cloned().collect();
        let erased = |step: &&Step| step.kind.account() == Some(AccountId::from_bytes([0; 16]));
        let mut live: Directory = fold(Directory::default(), &before);
        before.iter().filter(erased).for_each(|step| live.forget(step.kind));
        prop_assert_eq!(live.digest(), fold(Directory::default(), &purged).digest());
        let mut live: Usage = fold(Usage::default(), &interleaved(&before, &[]));
        before.iter().filter(erased).for_each(|step| live.forget(step.kind));
        prop_assert_eq!(live.digest(), fold(Usage::default(), &interleaved(&purged, &[])).digest());
    }

    /// The indices agree with what they index.
    #[test]
    fn a_sandbox_is_live_exactly_while_it_is_not_final(steps in history()) {
        let directory: Directory = fold(Directory::default(), &steps);
        let mut live = BTreeMap::new();
        for n in 0..3u8 {
            let account = AccountId::from_bytes([n; 16]);
            let of = || directory.sandboxes.of(account).map(|(_, sandbox)| sandbox);
            let count = of().filter(|sandbox| !sandbox.state.is_final()).count();
            prop_assert_eq!(directory.sandboxes.live_of(account) as usize, count);
            for day in of().map(|sandbox| Day::of(sandbox.requested_at)) {
                let of_day = of().filter(|sandbox| Day::of(sandbox.requested_at) == day);
                let sum = of_day.fold(0_u64, |sum, sandbox| sum.wrapping_add(sandbox.charged().0));
                prop_assert_eq!(directory.sandboxes.charged(account, day, Day(day.0.saturating_add(1))).0, if day.0 == u32::MAX { 0 } else { sum });
            }
            for (id, sandbox) in directory.sandboxes.of(account) {
                prop_assert_eq!(sandbox.account, AccountId::from_bytes([n; 16]));
                if !sandbox.state.is_final() {
                    live.insert(id, sandbox.clone());
                }
            }
        }
        let found: BTreeMap<_, _> = directory.sandboxes.live().map(|(id, s)| (id, s.clone())).collect();
        prop_assert_eq!(found, live);
    }
}

/// What happens to one sandbox, by a letter: request, claim, start, want to pause, paused, resumed (`g`: it goes on), want to stop, stopped,
/// failed.
fn history_of(letters: &str) -> Vec<Step> {
    let (account, id) = (AccountId::from_bytes([1; 16]), SandboxId::from_bytes([1; 16]));
    let own = SubjectKind::Sandbox(account, id);
    let steps = letters.chars().enumerate().map(|(index, letter)| {
        let (kind, event) = match letter {
            'r' => (SubjectKind::Admission(account), requested(id, 1, 60_000).into()),
            'c' => (own, SandboxClaimed { host: HostId::from_bytes([1; 16]) }.into()),
            's' => (own, started(5, 60_005).into()),
            'p' => (own, PauseRequested {}.into()),
            // 5 s ran, 40 s are left, for which 999 MiB count 4.9 s.
            'P' => {
                let meter = Meter { wall: Millis(5_000), ..Meter::default() };
                (own, paused(20_005, 60_005, meter).into())
            }
            'g' => {
                let (end_at, reserved) = (Timestamp(60_005), StandardMillis(50_000));
                (SubjectKind::Admission(account), SandboxResumed { sandbox: id, end_at, reserved }.into())
            }
            'w' => (own, StopRequested {}.into()),
            'x' => (own, stopped(9, Meter { wall: Millis(4), ..Meter::default() }).into()),
            'f' => (own, SandboxFailed { reason: FailReason::BootFailed }.into()),
            other => panic!("no event {other}"),
        };
        Step { kind, at: index as u64, commit: 1, event }
    });
    steps.collect()
}

#[track_caller]
fn check(letters: &str, state: &str, charged: u64) {
    let directory: Directory = fold(Directory::default(), &history_of(letters));
    let sandbox = directory.sandboxes.get(SandboxId::from_bytes([1; 16])).expect("it was requested");
    assert_eq!((sandbox.state.as_str(), sandbox.charged()), (state, StandardMillis(charged)), "{letters}");
}

#[test]
fn a_sandbox_goes_from_state_to_state() {
    check("r", "requested", 60_000);
    check("rc", "starting", 60_000);
    check("rcs", "running", 60_000);
    check("rcp", "starting", 60_000);
    check("rcsp", "pausing", 60_000);
    check("rcspP", "paused", 10_000);
    check("rcspPg", "running", 50_000);
    check("rcspPw", "stopping", 10_000);
    check("rcspwP", "stopping", 10_000);
    check("rcspPx", "stopped", 1_000);
    check("rcw", "stopping", 60_000);
    check("rcws", "stopping", 60_000);
    check("rcsw", "stopping", 60_000);
    check("rcswx", "stopped", 1_000);
    check("rcsx", "stopped", 1_000);
    check("rcf", "failed", 0);
    check("rf", "failed", 0);
}

#[test]
fn nothing_leads_out_of_a_final_state() {
    for last in ["c", "s", "p", "P", "g", "w", "x", "f", "r"] {
        check(&format!("rcsx{last}"), "stopped", 1_000);
        check(&format!("rf{last}"), "failed", 0);
    }
}

#[test]
fn what_is_repeated_changes_nothing() {
    check("rr", "requested", 60_000);
    check("rcc", "starting", 60_000);
    check("rcss", "running", 60_000);
    check("rcspp", "pausing", 60_000);
    check("rcspPP", "paused", 10_000);
    check("rcspPp", "paused", 10_000);
    check("rcspPgg", "running", 50_000);
    check("rcsww", "stopping", 60_000);
}

#[test]
fn a_sandbox_that_was_never_requested_is_not_there() {
    let directory: Directory = fold(Directory::default(), &history_of("csx"));
    assert_eq!(directory, Directory::default());
}
