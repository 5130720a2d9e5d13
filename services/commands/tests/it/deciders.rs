//! Tables of decisions: what is known, what is wanted, what comes of it. Pure: no log, no clock.

use omnirun_billing::{Period, Plans};
use omnirun_commands::decide::repeat::Recorded;
use omnirun_commands::decide::{Decision, Wish, billing, extend, request, sign_in, stop, tokens};
use omnirun_commands::retention::lag::{ALARM, unbilled};
use omnirun_commands_api::command::{Personal, SandboxWish, TokenWish};
use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::account::{AccountOpened, PlanChanged};
use omnirun_events::envelope::Actor;
use omnirun_events::event::Event;
use omnirun_events::host::{HostJoined, HostLeft, HostTemplate};
use omnirun_events::id::CommandId;
use omnirun_events::keys::Digest;
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::token::{RevokeReason, TokenKind};
use omnirun_events::unit::Seconds;
use omnirun_events::usage::Meter;
use omnirun_events::*;
use omnirun_projections::{Directory, Fact, Fold as _};

use crate::support::{HOST, START, credential, plans, sandbox_wish, token_wish};

pub const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
pub const HOUR: u64 = 3_600_000;

fn sealed() -> Sealed {
    Sealed { key: DataKeyLabel::Account, nonce: [0; 24], text: vec![0; 20] }
}

pub fn apply(directory: &mut Directory, subject: SubjectKind, event: impl Into<Event>, at: Timestamp) {
    let (event, kind, subject) = (event.into(), subject, Subject::from(subject));
    let commit = CommitId::from_bytes([0; 16]);
    let actor = Actor::System(Role::Commands);
    directory.apply(&Fact {
        sequence: Sequence(1),
        subject: &subject,
        kind,
        at,
        actor,
        commit,
        event: &event,
    });
}

fn host() -> HostJoined {
    HostJoined {
        address: String::new(),
        certificate: Digest([0; 32]),
        sandboxes_max: 10,
        vcpus_max: Vcpus(2),
        memory_max: Mebibytes(1024),
        monitor: String::new(),
        templates: vec![HostTemplate { name: "base".to_owned(), root: Digest([0; 32]) }],
    }
}

pub fn known() -> Directory {
    let mut directory = Directory::default();
    let opened = AccountOpened { email: sealed(), plan: "sandbox".to_owned() };
    apply(&mut directory, SubjectKind::Account(ACCOUNT), opened, START);
    apply(&mut directory, SubjectKind::Host(HOST), host(), START);
    directory
}

pub fn wish(n: u8, now: Timestamp) -> Wish {
    Wish { id: CommandId::from_bytes([n; 16]), account: ACCOUNT, actor: Actor::Account(ACCOUNT), now }
}

pub fn plain() -> SandboxWish {
    SandboxWish { metadata: None, ..sandbox_wish() }
}

fn ask(directory: &Directory, plans: &Plans, n: u8, wanted: &SandboxWish) -> Result<Decision, Rejection> {
    request::decide(directory, plans, &wish(n, START), wanted, None, &Recorded::Nothing)
}

/// Admits sandbox `n` and answers with its id.
pub fn admit(directory: &mut Directory, n: u8, wanted: &SandboxWish, at: Timestamp) -> SandboxId {
    let wish = wish(n, at);
    let decision =
        request::decide(directory, &plans(), &wish, wanted, None, &Recorded::Nothing).expect("room");
    for draft in decision.drafts() {
        for event in &draft.events {
            apply(directory, draft.subject.kind(), event.clone(), draft.at);
        }
    }
    request::sandbox_of(&wish)
}

fn run_for(directory: &mut Directory, sandbox: SandboxId, wall: u64, at: Timestamp) {
    let subject = SubjectKind::Sandbox(ACCOUNT, sandbox);
    apply(directory, subject, SandboxClaimed { host: HOST }, at);
    let meter = Meter { wall: Millis(wall), ..Meter::default() };
    let stopped = SandboxStopped { reason: StopReason::TimedOut, stopped_at: at, meter, teardown: Millis(0) };
    apply(directory, subject, stopped, at);
}

#[test]
fn a_sandbox_has_the_default_shape_and_the_plans_longest_life_unless_said_otherwise() {
    let wanted = SandboxWish { timeout: Seconds(0), ..plain() };
    let decision = ask(&known(), &plans(), 1, &wanted).expect("room");
    let [draft] = decision.drafts() else { panic!("one record") };
    let [Event::SandboxRequested(requested)] = draft.events.as_slice() else { panic!("one request") };
    assert_eq!(draft.subject.kind(), SubjectKind::Admission(ACCOUNT));
    assert_eq!((requested.shape, requested.timeout), (request::DEFAULT_SHAPE, Seconds(3600)));
    assert_eq!(requested.reserved.0, HOUR);
    assert_eq!(requested.deadline, START.after(Millis(60_000)));
}

#[test]
fn what_cannot_be_started_or_is_not_in_the_plan_is_refused_by_name() {
    let check = |change: fn(&mut SandboxWish), code: Code, says: &str| {
        let mut wanted = plain();
        change(&mut wanted);
        let refused = ask(&known(), &plans(), 1, &wanted).expect_err(says);
        assert!(refused.code == code && refused.message.contains(says), "{refused:?}");
    };
    check(
        |wish| wish.template = "other".to_owned(),
        Code::UnknownTemplate,
        "No worker host offers this template",
    );
    check(|wish| wish.vcpus = Some(Vcpus(0)), Code::Invalid, "at least 1 vCPU and 128 MiB");
    check(|wish| wish.memory = Some(Mebibytes(127)), Code::Invalid, "at least 1 vCPU and 128 MiB");
    check(|wish| wish.memory = Some(Mebibytes(1025)), Code::Invalid, "of this size");
    check(|wish| wish.vcpus = Some(Vcpus(3)), Code::Invalid, "of this size");
    check(|wish| wish.timeout = Seconds(3601), Code::PlanLimit, "live 3600 s; 3601 s");
}

#[test]
fn a_shape_that_a_host_has_and_the_plan_has_not_is_a_plan_limit() {
    let mut directory = known();
    apply(&mut directory, SubjectKind::Host(HOST), HostJoined { vcpus_max: Vcpus(8), ..host() }, START);
    let wanted = SandboxWish { vcpus: Some(Vcpus(4)), ..plain() };
    let refused = ask(&directory, &plans(), 1, &wanted).expect_err("two at most");
    assert!(refused.code == Code::PlanLimit && refused.message.contains("allows 2 vCPU"), "{refused}");
}

#[test]
fn without_a_host_one_may_try_again_later() {
    let mut directory = known();
    apply(&mut directory, SubjectKind::Host(HOST), HostLeft {}, START);
    let refused = ask(&directory, &plans(), 1, &plain()).expect_err("nobody there");
    assert!(refused.code == Code::Busy && refused.retryable);
}

#[test]
fn an_account_that_does_not_exist_gets_nothing() {
    let refused = ask(&Directory::default(), &plans(), 1, &plain()).expect_err("nobody");
    assert_eq!(refused.code, Code::NotFound);
}

#[test]
fn the_months_hours_count_what_ran_and_what_is_reserved_and_nothing_that_failed() {
    let mut directory = known();
    let hour = SandboxWish { timeout: Seconds(3600), ..plain() };
    // 24 hours ran, one sandbox failed, half an hour is reserved: half an hour of 25 is left.
    for n in 1..=24 {
        let sandbox = admit(&mut directory, n, &hour, START);
        run_for(&mut directory, sandbox, HOUR, START);
    }
    let failed = admit(&mut directory, 25, &hour, START);
    let reason = FailReason::NoCapacity;
    apply(&mut directory, SubjectKind::Sandbox(ACCOUNT, failed), SandboxFailed { reason }, START);
    admit(&mut directory, 26, &SandboxWish { timeout: Seconds(1800), ..plain() }, START);
    let refused =
        ask(&directory, &plans(), 27, &SandboxWish { timeout: Seconds(1801), ..plain() }).expect_err("over");
    assert_eq!(refused.code, Code::PlanLimit);
    // 2026-09-21 is the day of START.
    let says = "includes 25.00 sandbox-hours a month; 24.50 are used or reserved and this would reserve 0.51. It resets on 2026-10-21";
    assert!(refused.message.contains(says), "{refused}");
    ask(&directory, &plans(), 27, &SandboxWish { timeout: Seconds(1800), ..plain() })
        .expect("exactly what is left");
    let next_month = START.after(Millis(31 * 24 * HOUR));
    admit(&mut directory, 28, &hour, next_month);
}

#[test]
fn a_minute_admits_what_the_plan_says_and_the_refusal_says_when_there_is_room() {
    let text = include_str!("../../../../infra/plans.toml").replacen(
        "creations_per_minute = 120",
        "creations_per_minute = 2",
        1,
    );
    let plans = Plans::parse(&text).expect("valid");
    let mut directory = known();
    let at = |millis| START.after(Millis(millis));
    let first = admit(&mut directory, 1, &plain(), at(0));
    let reason = FailReason::NoCapacity;
    // One that has failed was admitted all the same.
    apply(&mut directory, SubjectKind::Sandbox(ACCOUNT, first), SandboxFailed { reason }, START);
    admit(&mut directory, 2, &plain(), at(10_000));
    let ask = |now| request::decide(&directory, &plans, &wish(3, now), &plain(), None, &Recorded::Nothing);
    let refused = ask(at(20_500)).expect_err("two are all");
    assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(Millis(39_500))));
    let says = "The plan sandbox admits 2 sandboxes a minute and 2 were admitted in the last one; there is room again in 40 s.";
    assert_eq!(refused.message, says);
    ask(at(59_999)).expect_err("not a minute yet");
    ask(at(60_000)).expect("the first has left the minute");
    ask(Timestamp(START.0 - 3_600_000))
        .expect("a clock that was set back by an hour makes nobody wait for one");
}

#[test]
fn stopping_follows_the_sandboxs_state() {
    let mut directory = known();
    let id = admit(&mut directory, 1, &plain(), START);
    let subject = SubjectKind::Sandbox(ACCOUNT, id);
    let said = |directory: &Directory| match stop::decide(directory, &wish(2, START), id).expect("ours") {
        Decision::Write(drafts, Outcome::SandboxStopping) => Some(drafts[0].events[0].clone()),
        Decision::Already(Outcome::SandboxStopping) => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(said(&directory), Some(SandboxFailed { reason: FailReason::Cancelled }.into()));
    apply(&mut directory, subject, SandboxClaimed { host: HOST }, START);
    assert_eq!(said(&directory), Some(StopRequested {}.into()));
    apply(&mut directory, subject, StopRequested {}, START);
    assert_eq!(said(&directory), None);
    run_for(&mut directory, id, 1, START);
    assert_eq!(said(&directory), None);
}

#[test]
fn a_repeated_extension_is_recognised_and_another_one_under_its_id_refused() {
    let mut directory = known();
    let id = admit(&mut directory, 1, &plain(), START);
    let subject = SubjectKind::Sandbox(ACCOUNT, id);
    apply(&mut directory, subject, SandboxClaimed { host: HOST }, START);
    let started = SandboxStarted {
        started_at: START,
        end_at: START.after(Millis(300_000)),
        from: StartedFrom::Pool,
        root: Digest([0; 32]),
        kernel: Digest([0; 32]),
    };
    apply(&mut directory, subject, started, START);
    let plans = plans();
    let decision =
        extend::decide(&directory, &plans, &wish(2, START), id, Seconds(600)).expect("within the plan");
    let draft = &decision.drafts()[0];
    let event = draft.events[0].clone();
    let (kind, subject) = (draft.subject.kind(), draft.subject.clone());
    let (commit, actor) = (draft.commit, draft.actor);
    directory.apply(&Fact {
        sequence: Sequence(9),
        subject: &subject,
        kind,
        at: START,
        actor,
        commit,
        event: &event,
    });
    let later = wish(2, START.after(Millis(10_000)));
    match extend::decide(&directory, &plans, &later, id, Seconds(600)).expect("the first result") {
        Decision::Already(Outcome::TimeoutExtended { end_at }) => {
            assert_eq!(end_at, START.after(Millis(600_000)))
        }
        other => panic!("{other:?}"),
    }
    let refused = extend::decide(&directory, &plans, &later, id, Seconds(601)).expect_err("another wish");
    assert_eq!(refused.code, Code::IdempotencyConflict);
}

#[test]
fn a_tokens_name_scopes_and_days_are_checked() {
    let check = |change: fn(&mut TokenWish), is_fine: bool| {
        let mut wanted = token_wish();
        change(&mut wanted);
        assert_eq!(
            tokens::check(&wanted).is_ok(),
            is_fine,
            "{:?} {:?}",
            wanted.name.reveal(),
            wanted.expires_in_days
        );
    };
    check(|_| {}, true);
    check(|wish| wish.expires_in_days = None, true);
    check(|wish| wish.expires_in_days = Some(3650), true);
    check(|wish| wish.name = Personal::new("ä".repeat(100)), true);
    check(|wish| wish.expires_in_days = Some(3651), false);
    check(|wish| wish.expires_in_days = Some(0), false);
    check(|wish| wish.scopes.clear(), false);
    check(|wish| wish.name = Personal::new(String::new()), false);
    check(|wish| wish.name = Personal::new("   "), false);
    check(|wish| wish.name = Personal::new("a".repeat(101)), false);
    check(|wish| wish.name = Personal::new("a\nb"), false);
}

#[test]
fn a_token_expires_when_it_was_wished_to_and_only_then() {
    let directory = known();
    for (days, expires) in [(None, None), (Some(30), Some(START.after(Millis(30 * 24 * HOUR))))] {
        let wanted = TokenWish { expires_in_days: days, ..token_wish() };
        let decision = tokens::create(
            &directory,
            &wish(1, START),
            &wanted,
            &credential(),
            &sealed(),
            &Recorded::Nothing,
        );
        match decision.expect("a fair wish") {
            Decision::Write(_, Outcome::TokenCreated { expires_at, .. }) => assert_eq!(expires_at, expires),
            other => panic!("{other:?}"),
        }
    }
    let none = TokenId::from_bytes([7; 16]);
    let refused =
        tokens::revoke(&directory, &wish(1, START), none, RevokeReason::ByOwner).expect_err("there is none");
    assert_eq!(refused.code, Code::NotFound);
}

#[test]
fn opening_an_account_claims_its_address_after_it_and_names_nobody_there() {
    let opening = sign_in::Opening { email: sealed(), plan: "sandbox".to_owned() };
    let decide = |directory: &Directory, opening| {
        sign_in::decide(directory, &wish(1, START), TokenKind::Cli, &credential(), opening)
    };
    let decision = decide(&Directory::default(), Some(opening.clone())).expect("a new account");
    let kinds: Vec<_> = decision.drafts().iter().map(|draft| draft.subject.kind()).collect();
    let token = tokens::token_of(&wish(1, START));
    assert_eq!(
        kinds,
        [SubjectKind::Account(ACCOUNT), SubjectKind::Registry, SubjectKind::Token(ACCOUNT, token)]
    );
    assert_eq!(decision.drafts()[1].actor, Actor::System(Role::Commands));
    let Decision::Write(_, Outcome::SignedIn { expires_at, .. }) = &decision else { panic!("not signed in") };
    assert_eq!(*expires_at, START.after(Millis(90 * 24 * HOUR)));
    assert_eq!(decide(&known(), None).expect("known").drafts().len(), 1);
    assert_eq!(decide(&known(), Some(opening)).expect_err("taken").code, Code::InvalidOrExpiredCode);
    assert_eq!(decide(&Directory::default(), None).expect_err("gone").code, Code::InvalidOrExpiredCode);
}

#[test]
fn a_plan_changes_from_the_next_month_on_and_only_to_one_that_there_is() {
    let plans = plans();
    let next = Period::of(START, START).end;
    let change = |directory: &Directory, to: &str| {
        billing::change_plan(directory, &plans, &wish(1, START), to).map_err(|rejection| rejection.code)
    };
    let mut changed = known();
    let plan = PlanChanged { plan: "scale".to_owned(), from: next };
    apply(&mut changed, SubjectKind::Account(ACCOUNT), plan, START);
    for (directory, to, expected) in [
        (&known(), "launch", Ok(Some("launch"))),
        (&known(), "sandbox", Ok(None)),
        (&changed, "scale", Ok(None)),
        (&changed, "sandbox", Ok(Some("sandbox"))),
        (&known(), "gold", Err(Code::Invalid)),
        (&Directory::default(), "launch", Err(Code::NotFound)),
    ] {
        let decided = change(directory, to).map(|decision| match decision.drafts() {
            [] => None,
            [draft] => match &draft.events[..] {
                [Event::PlanChanged(changed)] if changed.from == next => Some(changed.plan.clone()),
                other => panic!("{other:?}"),
            },
            more => panic!("{more:?}"),
        });
        assert_eq!(decided, expected.map(|plan| plan.map(str::to_owned)), "{to}");
    }
}

#[test]
fn a_month_in_which_something_ran_is_unbilled_from_its_end_until_it_is_closed() {
    let mut directory = known();
    let id = admit(&mut directory, 1, &plain(), START);
    let (life, root) = (SubjectKind::Sandbox(ACCOUNT, id), Digest([0; 32]));
    apply(&mut directory, life, SandboxClaimed { host: HOST }, START);
    let (end_at, from) = (START.after(Millis(HOUR)), StartedFrom::Boot);
    let started = SandboxStarted { started_at: START, end_at, from, root, kernel: root };
    apply(&mut directory, life, started, START);
    let (reason, meter) = (StopReason::TimedOut, Meter::default());
    let stopped = SandboxStopped { reason, stopped_at: end_at, meter, teardown: Millis(1) };
    apply(&mut directory, life, stopped, end_at);
    let month = Period::of(START, START);
    let late = month.end.after(ALARM);
    assert_eq!(unbilled(&known(), late), Millis(0), "nothing ran");
    assert_eq!(unbilled(&directory, month.end), Millis(0));
    assert_eq!(unbilled(&directory, late), ALARM);
    apply(&mut directory, SubjectKind::Billing(ACCOUNT), crate::billing::statement(START), late);
    assert_eq!(unbilled(&directory, late), Millis(0));
}
