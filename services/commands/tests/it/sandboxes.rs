//! Sandboxes: admission under races, stopping, extending, failing in time.

use std::sync::Arc;

use omnirun_commands_api::{Code, Command, Outcome};
use omnirun_events::keys::Digest;
use omnirun_events::sandbox::*;
use omnirun_events::unit::Seconds;
use omnirun_events::usage::Meter;
use omnirun_events::*;
use omnirun_projections::sandboxes::State;

use crate::support::*;

async fn requested(world: &World, process: &Process, account: AccountId) -> SandboxId {
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    match process.send(world.envelope(request)).await.expect("room").outcome {
        Outcome::SandboxRequested { sandbox, .. } => sandbox,
        other => panic!("not admitted: {other:?}"),
    }
}

async fn claim(world: &World, account: AccountId, sandbox: SandboxId) {
    world.as_worker(SubjectKind::Sandbox(account, sandbox), SandboxClaimed { host: HOST }).await;
}

async fn start(world: &World, account: AccountId, sandbox: SandboxId) {
    claim(world, account, sandbox).await;
    let started = SandboxStarted {
        started_at: world.time(),
        end_at: world.time().after(Millis(300_000)),
        from: StartedFrom::Boot,
        root: Digest([0; 32]),
        kernel: Digest([0; 32]),
    };
    world.as_worker(SubjectKind::Sandbox(account, sandbox), started).await;
}

async fn state(world: &World, process: &Process, sandbox: SandboxId) -> State {
    process
        .view(world, |directory| directory.sandboxes.get(sandbox).map(|sandbox| sandbox.state))
        .await
        .expect("known")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_thirty_two_requests_at_once_exactly_the_plans_five_are_admitted() {
    let world = Arc::new(World::new().await);
    let mut processes = Vec::new();
    for _ in 0..4 {
        processes.push(Arc::new(world.process().await));
    }
    let account = world.sign_in(&processes[0], "a@example.org").await;
    let requests = (0..32).map(|n| {
        let process = processes[n % 4].clone();
        let envelope = world.envelope(Command::RequestSandbox { account, wish: sandbox_wish() });
        tokio::spawn(async move { process.send(envelope).await })
    });
    let (mut admitted, mut refused) = (0, 0);
    for request in requests.collect::<Vec<_>>() {
        match request.await.expect("no panic") {
            Ok(_) => admitted += 1,
            Err(rejection) => {
                assert_eq!(rejection.code, Code::PlanLimit);
                assert!(rejection.message.contains("allows 5 sandboxes at once and 5 exist"), "{rejection}");
                refused += 1;
            }
        }
    }
    assert_eq!((admitted, refused), (5, 27));
    assert_eq!(processes[0].view(&world, |directory| directory.sandboxes.live().count()).await, 5);
}

#[tokio::test]
async fn a_sandbox_that_has_ended_makes_room_for_another() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let mut sandboxes = Vec::new();
    for _ in 0..5 {
        sandboxes.push(requested(&world, &process, account).await);
    }
    let one_more = || Command::RequestSandbox { account, wish: sandbox_wish() };
    process.send(world.envelope(one_more())).await.expect_err("five are all");
    start(&world, account, sandboxes[0]).await;
    let stopped = SandboxStopped {
        reason: StopReason::GuestDied,
        stopped_at: world.time(),
        meter: Meter::default(),
        teardown: Millis(1),
    };
    world.as_worker(SubjectKind::Sandbox(account, sandboxes[0]), stopped).await;
    process.view(&world, |_| ()).await;
    process.send(world.envelope(one_more())).await.expect("room again");
}

#[tokio::test]
async fn an_unclaimed_sandbox_is_cancelled_and_cannot_be_claimed_any_more() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let sandbox = requested(&world, &process, account).await;
    let stop = || Command::StopSandbox { account, sandbox };
    process.send(world.envelope(stop())).await.expect("ours");
    assert_eq!(state(&world, &process, sandbox).await, State::Failed(FailReason::Cancelled));
    let head = world.log.head(Log::Events).await.expect("memory");
    process.send(world.envelope(stop())).await.expect("it has ended already");
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
}

#[tokio::test]
async fn stopping_a_claimed_sandbox_asks_its_host() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let sandbox = requested(&world, &process, account).await;
    claim(&world, account, sandbox).await;
    process.send(world.envelope(Command::StopSandbox { account, sandbox })).await.expect("ours");
    assert_eq!(state(&world, &process, sandbox).await, State::Stopping);
}

#[tokio::test]
async fn anothers_sandbox_does_not_exist() {
    let world = World::new().await;
    let process = world.process().await;
    let owner = world.sign_in(&process, "a@example.org").await;
    let stranger = world.sign_in(&process, "b@example.org").await;
    let sandbox = requested(&world, &process, owner).await;
    let stop = Command::StopSandbox { account: stranger, sandbox };
    assert_eq!(process.send(world.envelope(stop)).await.expect_err("not theirs").code, Code::NotFound);
    let extend = Command::ExtendTimeout { account: stranger, sandbox, timeout: Seconds(10) };
    assert_eq!(process.send(world.envelope(extend)).await.expect_err("not theirs").code, Code::NotFound);
}

#[tokio::test]
async fn a_request_that_no_host_claims_in_time_fails_and_a_claimed_one_does_not() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (unclaimed, claimed) =
        (requested(&world, &process, account).await, requested(&world, &process, account).await);
    world.pass(Millis(60_000));
    assert_eq!(process.service.fail_unclaimed().await, Ok(0));
    world.pass(Millis(1));
    // The claim is in the log; whether the view has seen it does not matter.
    claim(&world, account, claimed).await;
    assert_eq!(process.service.fail_unclaimed().await, Ok(1));
    assert_eq!(state(&world, &process, unclaimed).await, State::Failed(FailReason::NoCapacity));
    assert_eq!(state(&world, &process, claimed).await, State::Starting);
    assert_eq!(process.service.fail_unclaimed().await, Ok(0));
}

#[tokio::test]
async fn a_running_sandbox_is_extended_within_the_plans_longest_session() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let sandbox = requested(&world, &process, account).await;
    let extend = |seconds| Command::ExtendTimeout { account, sandbox, timeout: Seconds(seconds) };
    let early = process.send(world.envelope(extend(600))).await.expect_err("not running yet");
    assert!(early.code == Code::Busy && early.retryable);
    start(&world, account, sandbox).await;
    let started = world.time();
    world.pass(Millis(100_000));
    let reply = process.send(world.envelope(extend(600))).await.expect("within the plan");
    let Outcome::TimeoutExtended { end_at } = reply.outcome else { panic!("not extended") };
    assert_eq!(end_at, world.time().after(Millis(600_000)));
    let refused = process.send(world.envelope(extend(3600))).await.expect_err("3700 s in all");
    assert!(refused.code == Code::PlanLimit && refused.message.contains("live 3600 s; 3700 s"), "{refused}");
    let reply = process.send(world.envelope(extend(0))).await.expect("the longest");
    let Outcome::TimeoutExtended { end_at } = reply.outcome else { panic!("not extended") };
    assert_eq!(end_at, started.after(Millis(3_600_000)));
    let reserved =
        |directory: &omnirun_projections::Directory| directory.sandboxes.get(sandbox).map(|s| s.reserved.0);
    assert_eq!(process.view(&world, reserved).await, Some(3_600_000));
}
