//! The same command again: the first result, never a second record; another wish under the same id is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use omnirun_commands_api::command::{Personal, SandboxWish};
use omnirun_commands_api::{Code, Command, Commands as _, Envelope, Outcome, SendError};
use omnirun_events::log::AppendError;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::unit::Seconds;
use omnirun_events::*;

use crate::support::*;

#[tokio::test]
async fn a_repeated_request_is_the_same_sandbox_and_another_wish_a_conflict() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let first = world.envelope(Command::RequestSandbox { account, wish: sandbox_wish() });
    let reply = process.send(first.clone()).await.expect("room");
    world.pass(Millis(5_000));
    let head = world.log.head(Log::Events).await.expect("memory");
    let again = process.send(first.clone()).await.expect("the first result");
    assert_eq!(format!("{:?}", reply.outcome), format!("{:?}", again.outcome));
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
    let changes: [fn(&mut SandboxWish); 4] = [
        |wish| wish.timeout = Seconds(301),
        |wish| wish.metadata = None,
        |wish| wish.metadata = Some(Personal::new("{}")),
        |wish| wish.memory = Some(Mebibytes(1024)),
    ];
    for change in changes {
        let mut wish = sandbox_wish();
        change(&mut wish);
        let other = Envelope { command: Command::RequestSandbox { account, wish }, ..first.clone() };
        assert_eq!(process.send(other).await.expect_err("another wish").code, Code::IdempotencyConflict);
    }
}

#[tokio::test]
async fn a_repeated_token_is_named_and_not_made_again() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let create = |wish| Command::CreateToken { account, wish, credential: credential() };
    let first = world.envelope(create(token_wish()));
    let reply = process.send(first.clone()).await.expect("a fair wish");
    let Outcome::TokenCreated { token, .. } = reply.outcome else { panic!("no token") };
    let again = Envelope { command: create(token_wish()), ..first.clone() };
    match process.send(again).await.expect("made before").outcome {
        Outcome::TokenAlreadyCreated { token: made } => assert_eq!(made, token),
        other => panic!("{other:?}"),
    }
    let mut other = token_wish();
    other.name = Personal::new("another name");
    let other = Envelope { command: create(other), ..first };
    assert_eq!(process.send(other).await.expect_err("another wish").code, Code::IdempotencyConflict);
}

/// A log that lets everybody else go first.
struct Yielding(MemoryLog);

#[async_trait]
impl Append for Yielding {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.0.append_all(batch).await
    }
}

#[tokio::test]
async fn a_token_that_is_asked_for_twice_at_once_is_made_once_and_named_to_the_other() {
    let world = World::new().await;
    let process = world.process_with(Arc::new(Yielding(world.log.clone()))).await;
    let account = world.sign_in(&process, "a@example.org").await;
    let create = Command::CreateToken { account, wish: token_wish(), credential: credential() };
    let envelope = world.envelope(create);
    let (one, other) = tokio::join!(process.send(envelope.clone()), process.send(envelope));
    let made = |reply: &Outcome| match reply {
        Outcome::TokenCreated { token, .. } => (*token, true),
        Outcome::TokenAlreadyCreated { token } => (*token, false),
        other => panic!("{other:?}"),
    };
    let (one, other) = (one.expect("a fair wish").outcome, other.expect("the same wish").outcome);
    assert_eq!((made(&one).0, made(&one).1), (made(&other).0, !made(&other).1));
}

#[tokio::test]
async fn a_repeated_sign_in_names_the_credential_that_was_made() {
    let world = World::new().await;
    let process = world.process().await;
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    let envelope = world.envelope(verify("a@example.org", Some(challenge), &code));
    let reply = process.send(envelope.clone()).await.expect("right");
    let Outcome::SignedIn { token, .. } = reply.outcome else { panic!("not signed in") };
    match process.send(envelope.clone()).await.expect("made before").outcome {
        Outcome::TokenAlreadyCreated { token: made } => assert_eq!(made, token),
        other => panic!("{other:?}"),
    }
    // Whoever guesses the command's id learns nothing without the code, and has five tries at it like everybody.
    let guess = Envelope { command: verify("a@example.org", Some(challenge), &wrong(&code)), ..envelope };
    for _ in 0..4 {
        let refused = process.send(guess.clone()).await.expect_err("not proved");
        assert_eq!(refused.code, Code::InvalidOrExpiredCode);
    }
    let spent = Envelope { command: verify("a@example.org", Some(challenge), &code), ..guess };
    assert_eq!(process.send(spent).await.expect_err("over-tried").code, Code::InvalidOrExpiredCode);
}

#[tokio::test]
async fn a_repeated_request_for_a_code_sends_one_mail() {
    let world = World::new().await;
    let process = world.process().await;
    let envelope = world.envelope(request_code("a@example.org"));
    let first = challenge_of(process.send(envelope.clone()).await.expect("asked"));
    let code = world.mailbox.code(1).await;
    assert_eq!(challenge_of(process.send(envelope.clone()).await.expect("asked before")), first);
    let other = match envelope.command.clone() {
        Command::RequestCode { email, network, .. } => {
            Command::RequestCode { email, bind: Some([1; 32]), network }
        }
        other => other,
    };
    let other = Envelope { command: other, ..envelope };
    assert_eq!(process.send(other).await.expect_err("another page").code, Code::IdempotencyConflict);
    process.send(world.envelope(verify("a@example.org", Some(first), &code))).await.expect("still good");
    assert_eq!(world.mailbox.recipients().len(), 1);
}

#[tokio::test]
async fn a_command_after_its_deadline_does_nothing() {
    let world = World::new().await;
    let process = world.process().await;
    let envelope = world.envelope(request_code("a@example.org"));
    world.pass(Millis(30_000));
    assert_eq!(process.send(envelope).await.expect_err("too late").code, Code::DeadlinePassed);
}

/// A log that stores what it is given and then says, a few times, that it does not know.
struct Forgetful {
    log: MemoryLog,
    silent: AtomicUsize,
}

#[async_trait]
impl Append for Forgetful {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        let log = batch.log();
        let stored = self.log.append_all(batch).await;
        let is_silent =
            self.silent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_silent { Err(AppendError::Unknown { log, source: "no answer".into() }) } else { stored }
    }
}

#[tokio::test]
async fn an_append_that_was_not_confirmed_is_sent_again_and_counts_once() {
    let world = World::new().await;
    let forgetful = Arc::new(Forgetful { log: world.log.clone(), silent: AtomicUsize::new(0) });
    let process = world.process_with(forgetful.clone()).await;
    let account = world.sign_in(&process, "a@example.org").await;
    let request = || world.envelope(Command::RequestSandbox { account, wish: sandbox_wish() });
    process.send(request()).await.expect("the day's key is made");
    forgetful.silent.store(2, Ordering::SeqCst);
    process.send(request()).await.expect("the third answer comes");
    assert_eq!(process.view(&world, |directory| directory.sandboxes.live().count()).await, 2);
    // Never confirmed: the asker is not told that it failed, and finds out by asking again.
    forgetful.silent.store(usize::MAX, Ordering::SeqCst);
    let unsure = request();
    let answer = process.service.send(unsure.clone()).await;
    assert!(matches!(answer, Err(SendError::TimedOut)), "{answer:?}");
    forgetful.silent.store(0, Ordering::SeqCst);
    process.send(unsure).await.expect("it was done");
    assert_eq!(process.view(&world, |directory| directory.sandboxes.live().count()).await, 3);
}

#[tokio::test]
async fn a_command_dropped_at_any_point_is_finished_by_the_same_command() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    for polls in 0..12 {
        let envelope = world.envelope(Command::RequestSandbox { account, wish: sandbox_wish() });
        let mut dropped = Box::pin(process.service.handle(envelope.clone()));
        for _ in 0..polls {
            let is_done = std::future::poll_fn(|context| {
                std::task::Poll::Ready(dropped.as_mut().poll(context).is_ready())
            });
            if is_done.await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(dropped);
        let reply = process.send(envelope).await.expect("room");
        let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
        assert_eq!(process.view(&world, |directory| directory.sandboxes.live().count()).await, 1);
        process.send(world.envelope(Command::StopSandbox { account, sandbox })).await.expect("ours");
    }
}
