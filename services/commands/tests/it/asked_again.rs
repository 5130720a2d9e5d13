//! A code that is asked for again by the same key: one challenge and one code, whichever process answers and whatever failed before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use omnirun_commands_api::{Code, Envelope};
use omnirun_events::log::AppendError;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::*;
use tokio::sync::Notify;

use crate::support::*;

/// The account that an unknown address would get is drawn at each process: nothing may follow from whether it is the same one.
#[tokio::test]
async fn a_repeated_request_for_a_code_has_one_answer_at_every_process_whatever_its_address_is() {
    let world = World::new().await;
    let (first, second) = (world.process().await, world.process().await);
    world.sign_in(&first, "known@example.org").await;
    for (email, mails) in [("known@example.org", 2), ("unknown@example.org", 3)] {
        let envelope = world.envelope(request_code(email));
        let challenge = challenge_of(first.send(envelope.clone()).await.expect("asked"));
        let code = world.mailbox.code(mails).await;
        assert_eq!(challenge_of(second.send(envelope).await.expect("asked before")), challenge, "{email}");
        let right = verify(email, Some(challenge), &code);
        second.send(world.envelope(right)).await.expect("the code is still good");
    }
    assert_eq!(world.mailbox.recipients().len(), 3);
}

/// Two processes find nothing issued, and both issue; the log keeps one of the two.
#[tokio::test]
async fn of_one_request_for_a_code_at_two_processes_every_mail_has_the_code_that_works() {
    let world = World::new().await;
    let slow = Arc::new(Late { log: world.log.clone(), asked: Notify::new(), go: Notify::new() });
    let append = slow.clone();
    let (first, second) = (world.process_with(append).await, world.process().await);
    let envelope = world.envelope(request_code("a@example.org"));
    let beside = async {
        slow.asked.notified().await;
        let challenge = challenge_of(second.send(envelope.clone()).await.expect("asked"));
        slow.go.notify_one();
        challenge
    };
    let (answer, challenge) = tokio::join!(first.send(envelope.clone()), beside);
    assert_eq!(challenge_of(answer.expect("asked")), challenge);
    let codes = (world.mailbox.code(1).await, world.mailbox.code(2).await);
    assert_eq!(codes.0, codes.1);
    first
        .send(world.envelope(verify("a@example.org", None, &codes.0)))
        .await
        .expect("the newest here as well");
}

/// A log that appends nothing before it is told to.
struct Late {
    log: MemoryLog,
    asked: Notify,
    go: Notify,
}

#[async_trait]
impl Append for Late {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        if batch.entries().iter().any(|entry| entry.subject.as_str().ends_with("issued")) {
            self.asked.notify_one();
            self.go.notified().await;
        }
        self.log.append_all(batch).await
    }
}

/// A log that stores nothing more on one kind of subject while it is told so.
struct Refusing {
    log: MemoryLog,
    is_full: AtomicBool,
}

#[async_trait]
impl Append for Refusing {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        let is_use = batch.entries().iter().any(|entry| entry.subject.as_str().ends_with("used"));
        if is_use && self.is_full.load(Ordering::SeqCst) {
            return Err(AppendError::Full { log: batch.log(), remedy: String::new() });
        }
        self.log.append_all(batch).await
    }
}

#[tokio::test]
async fn a_code_is_mailed_although_the_one_before_it_cannot_be_ended() {
    let world = World::new().await;
    let refusing = Arc::new(Refusing { log: world.log.clone(), is_full: AtomicBool::new(false) });
    let process = world.process_with(refusing.clone()).await;
    process.ask_for_code(&world, "a@example.org").await;
    world.mailbox.count(1).await;
    refusing.is_full.store(true, Ordering::SeqCst);
    let envelope = world.envelope(request_code("a@example.org"));
    assert_eq!(process.send(envelope.clone()).await.expect_err("full").code, Code::Busy);
    refusing.is_full.store(false, Ordering::SeqCst);
    let challenge = challenge_of(process.send(envelope).await.expect("asked before"));
    let code = world.mailbox.code(2).await;
    process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await.expect("it works");
    assert_eq!(world.mailbox.recipients().len(), 2);
}

#[tokio::test]
async fn a_code_that_a_newer_one_replaced_does_not_sign_in_by_the_key_of_that_request() {
    let world = World::new().await;
    let process = world.process().await;
    let old = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    let newer = world.envelope(request_code("a@example.org"));
    process.send(newer.clone()).await.expect("asked");
    let replayed = Envelope { command: verify("a@example.org", Some(old), &code), ..newer };
    let refused = process.send(replayed).await.expect_err("replaced");
    assert_eq!(refused.code, Code::InvalidOrExpiredCode);
}
