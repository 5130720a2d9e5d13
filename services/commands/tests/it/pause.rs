//! Pausing and resuming: which states allow it, what is reserved meanwhile, and that twice is once.

use omnirun_commands::decide::{Decision, extend, pause, resume, stop};
use omnirun_commands_api::{Code, Command, Outcome, Rejection};
use omnirun_events::event::Event;
use omnirun_events::keys::Digest;
use omnirun_events::sandbox::*;
use omnirun_events::unit::{MebibyteSeconds, Seconds};
use omnirun_events::usage::Meter;
use omnirun_events::*;
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::State;

use crate::deciders::{ACCOUNT, admit, apply, known, plain, wish};
use crate::support::*;

/// A time after the start.
fn at(seconds: u64) -> Timestamp {
    START.after(Millis(seconds * 1000))
}

fn started() -> SandboxStarted {
    let digest = Digest([0; 32]);
    SandboxStarted {
        started_at: START,
        end_at: at(3600),
        from: StartedFrom::Pool,
        root: digest,
        kernel: digest,
    }
}

/// Paused after it ran for 600 s.
fn paused(seconds: u64) -> SandboxPaused {
    let memory = MebibyteSeconds(512 * seconds);
    let meter = Meter { wall: Millis(600_000), memory, ..Meter::default() };
    SandboxPaused { paused_at: at(seconds), end_at: at(3600), meter }
}

/// A directory with one sandbox that has an hour, and what happened to it.
fn after(events: &[Event]) -> (Directory, SandboxId) {
    let mut directory = known();
    let wanted = omnirun_commands_api::command::SandboxWish { timeout: Seconds(3600), ..plain() };
    let id = admit(&mut directory, 1, &wanted, START);
    for event in events {
        apply(&mut directory, SubjectKind::Sandbox(ACCOUNT, id), event.clone(), START);
    }
    (directory, id)
}

fn running() -> Vec<Event> {
    vec![SandboxClaimed { host: HOST }.into(), started().into()]
}

fn with(more: &[Event]) -> Vec<Event> {
    running().into_iter().chain(more.iter().cloned()).collect()
}

/// What is decided: an event, nothing because it is so already, or a refusal.
fn shown(decision: Result<Decision, Rejection>) -> String {
    match decision {
        Ok(Decision::Write(drafts, _)) => drafts[0].events[0].name().0.into_owned(),
        Ok(Decision::Already(_)) => "already".to_owned(),
        Err(rejection) => format!("{:?}", rejection.code),
    }
}

#[test]
fn each_state_allows_what_it_allows() {
    let stopped = SandboxStopped {
        reason: StopReason::TimedOut,
        stopped_at: at(60),
        meter: Meter::default(),
        teardown: Millis(1),
    };
    let asked = PauseRequested {};
    for (events, to_pause, to_resume, to_extend) in [
        (vec![], "NotRunning", "NotRunning", "Busy"),
        (vec![SandboxClaimed { host: HOST }.into()], "NotRunning", "NotRunning", "Busy"),
        (running(), "sandbox.pause_requested", "already", "sandbox.timeout_extended"),
        (with(&[asked.clone().into()]), "already", "Busy", "Busy"),
        (
            with(&[asked.clone().into(), paused(600).into()]),
            "already",
            "sandbox.resumed",
            "sandbox.timeout_extended",
        ),
        (
            with(&[asked.into(), paused(600).into(), StopRequested {}.into()]),
            "AlreadyFinal",
            "AlreadyFinal",
            "AlreadyFinal",
        ),
        (with(&[stopped.into()]), "AlreadyFinal", "AlreadyFinal", "AlreadyFinal"),
    ] {
        let (directory, id) = after(&events);
        let (plans, wish) = (plans(), wish(2, at(900)));
        assert_eq!(shown(pause::decide(&directory, &wish, id)), to_pause, "pause after {events:?}");
        assert_eq!(
            shown(resume::decide(&directory, &plans, &wish, id)),
            to_resume,
            "resume after {events:?}"
        );
        let extended = extend::decide(&directory, &plans, &wish, id, Seconds(60));
        assert_eq!(shown(extended), to_extend, "extend after {events:?}");
    }
}

#[test]
fn a_paused_sandbox_is_stopped_by_its_host_and_has_no_end_that_has_passed() {
    let (directory, id) = after(&with(&[PauseRequested {}.into(), paused(600).into()]));
    assert_eq!(shown(stop::decide(&directory, &wish(2, at(900)), id)), "sandbox.stop_requested");
    let late = resume::decide(&directory, &plans(), &wish(2, at(3600)), id);
    assert_eq!(shown(late), "AlreadyFinal");
}

#[test]
fn a_pause_gives_back_what_will_not_be_used_and_a_resumption_takes_it_anew() {
    let (mut directory, id) = after(&running());
    let reserved = |directory: &Directory| directory.sandboxes.get(id).expect("known").charged().0;
    assert_eq!(reserved(&directory), 3_600_000);
    let own = SubjectKind::Sandbox(ACCOUNT, id);
    apply(&mut directory, own, PauseRequested {}, at(600));
    assert_eq!(reserved(&directory), 3_600_000);
    apply(&mut directory, own, paused(600), at(600));
    // 600 s ran; of the other 3000 s a sixteenth counts for 512 MiB: 187.5 s.
    assert_eq!(reserved(&directory), 788_000);
    let Ok(Decision::Write(drafts, _)) = resume::decide(&directory, &plans(), &wish(2, at(2200)), id) else {
        panic!("there is room")
    };
    let [Event::SandboxResumed(resumed)] = drafts[0].events.as_slice() else { panic!("one resumption") };
    // 600 s, a sixteenth of 1600 s, and the 1400 s that are left.
    assert_eq!((resumed.end_at, resumed.reserved.0), (at(3600), 2_100_000));
    apply(&mut directory, SubjectKind::Admission(ACCOUNT), resumed.clone(), at(2200));
    assert_eq!(reserved(&directory), 2_100_000);
    let one = directory.sandboxes.get(id).expect("known");
    assert_eq!((one.state, one.end_at), (State::Running, Some(at(3600))));
    // An extension knows what the pause has saved: a plan's longest session is by the clock, its hours are not.
    assert_eq!(one.reservation_until(at(3000)).0, 1_500_000);
}

#[test]
fn a_resumption_that_the_month_has_no_hours_for_is_refused_and_changes_nothing() {
    let text =
        include_str!("../../../../infra/plans.toml").replacen("hours_included = 25", "hours_included = 1", 1);
    let plans = omnirun_billing::Plans::parse(&text).expect("valid");
    let (mut directory, id) = after(&with(&[PauseRequested {}.into(), paused(600).into()]));
    let other = omnirun_commands_api::command::SandboxWish { timeout: Seconds(2500), ..plain() };
    admit(&mut directory, 3, &other, at(700));
    let refused =
        resume::decide(&directory, &plans, &wish(2, at(900)), id).expect_err("2500 s are another's");
    assert!(refused.code == Code::PlanLimit && refused.message.contains("includes 1.00"), "{refused}");
    assert_eq!(directory.sandboxes.get(id).map(|one| one.state), Some(State::Paused));
}

async fn run(world: &World, process: &Process) -> (AccountId, SandboxId) {
    let account = world.sign_in(process, "a@example.org").await;
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
    let own = SubjectKind::Sandbox(account, sandbox);
    world.as_worker(own, SandboxClaimed { host: HOST }).await;
    world.as_worker(own, SandboxStarted { started_at: world.time(), ..started() }).await;
    (account, sandbox)
}

#[tokio::test]
async fn a_repeated_command_is_the_first_one_even_when_the_sandbox_has_changed_since() {
    let world = World::new().await;
    let process = world.process().await;
    let (account, sandbox) = run(&world, &process).await;
    let (pausing, resuming) = (
        world.envelope(Command::PauseSandbox { account, sandbox }),
        world.envelope(Command::ResumeSandbox { account, sandbox }),
    );
    let state = async || {
        process.view(&world, |directory| directory.sandboxes.get(sandbox).map(|one| one.state)).await
    };
    process.send(pausing.clone()).await.expect("it runs");
    assert_eq!(state().await, Some(State::Pausing));
    world.as_worker(SubjectKind::Sandbox(account, sandbox), paused(0)).await;
    process.send(resuming.clone()).await.expect("it is paused");
    assert_eq!(state().await, Some(State::Running));
    let head = world.log.head(Log::Events).await.expect("memory");
    process.send(pausing).await.expect("it was paused once");
    process.send(resuming.clone()).await.expect("it was resumed once");
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
    process.send(world.envelope(Command::PauseSandbox { account, sandbox })).await.expect("another wish");
    world.as_worker(SubjectKind::Sandbox(account, sandbox), paused(0)).await;
    process.send(resuming).await.expect("it was resumed once, before");
    assert_eq!(state().await, Some(State::Paused));
}

#[tokio::test]
async fn anothers_sandbox_is_neither_paused_nor_resumed() {
    let world = World::new().await;
    let process = world.process().await;
    let (_, sandbox) = run(&world, &process).await;
    let account = world.sign_in(&process, "b@example.org").await;
    for command in [Command::PauseSandbox { account, sandbox }, Command::ResumeSandbox { account, sandbox }] {
        let refused = process.send(world.envelope(command)).await.expect_err("not theirs");
        assert_eq!(refused.code, Code::NotFound);
    }
}
