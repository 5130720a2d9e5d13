//! Codes: what lets in, what does not, and how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use omnirun_commands_api::command::Personal;
use omnirun_commands_api::{Code, Command, Envelope, Outcome};
use omnirun_events::log::read_to_end;
use omnirun_events::token::TokenKind;
use omnirun_events::*;
use sha2::{Digest as _, Sha256};

use crate::recorder::Recorder;
use crate::support::*;

#[tokio::test]
async fn a_person_signs_in_makes_a_token_and_asks_for_a_sandbox() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, " Someone@Example.org ").await;
    let create = Command::CreateToken { account, wish: token_wish(), credential: credential() };
    let token = match process.send(world.envelope(create)).await.expect("a fair wish").outcome {
        Outcome::TokenCreated { token, .. } => token,
        other => panic!("no token: {other:?}"),
    };
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, deadline } = reply.outcome else { panic!("not admitted") };
    assert_eq!(deadline, world.time().after(Millis(60_000)));
    let head = world.log.head(Log::Events).await.expect("memory");
    assert_eq!(reply.position, Some(Position { log: Log::Events, sequence: head }));
    let found = process
        .view(&world, |directory| {
            let sandbox = directory.sandboxes.get(sandbox).map(|sandbox| sandbox.account);
            (sandbox, directory.tokens.get(token).map(|token| token.account))
        })
        .await;
    assert_eq!(found, (Some(account), Some(account)));
    assert_eq!(world.mailbox.recipients(), ["someone@example.org"]);
}

#[tokio::test]
async fn an_address_signs_in_to_its_one_account_also_after_a_restart() {
    let world = World::new().await;
    let first = world.process().await;
    let account = world.sign_in(&first, "a@example.org").await;
    assert_eq!(world.sign_in(&first, "A@Example.ORG").await, account);
    assert_ne!(world.sign_in(&first, "b@example.org").await, account);
    drop(first);
    let second = world.process().await;
    assert_eq!(world.sign_in(&second, "a@example.org").await, account);
}

#[tokio::test]
async fn whoever_is_guessed_at_gets_long_codes_until_the_next_sign_in() {
    let world = World::new().await;
    let process = world.process().await;
    for round in 1..=2 {
        let challenge = process.ask_for_code(&world, "a@example.org").await;
        let code = world.mailbox.code(round).await;
        assert_eq!(code.len(), 6);
        for _ in 0..5 {
            let guess = verify("a@example.org", Some(challenge), &wrong(&code));
            process.send(world.envelope(guess)).await.expect_err("a guess");
        }
    }
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(3).await;
    assert_eq!(code.len(), 10);
    process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await.expect("right");
    process.ask_for_code(&world, "a@example.org").await;
    assert_eq!(world.mailbox.code(4).await.len(), 6);
}

#[tokio::test]
async fn a_wrong_code_is_refused_and_the_right_one_works_once() {
    let world = World::new().await;
    let process = world.process().await;
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    let refused = process.send(world.envelope(verify("a@example.org", Some(challenge), &wrong(&code)))).await;
    assert_eq!(refused.expect_err("wrong").code, Code::InvalidOrExpiredCode);
    process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await.expect("right");
    let replayed = process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await;
    assert_eq!(replayed.expect_err("used").code, Code::InvalidOrExpiredCode);
}

#[tokio::test]
async fn a_code_signs_nobody_in_under_another_address() {
    let world = World::new().await;
    let process = world.process().await;
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    let refused = process.send(world.envelope(verify("b@example.org", Some(challenge), &code))).await;
    assert_eq!(refused.expect_err("another address").code, Code::InvalidOrExpiredCode);
}

#[tokio::test]
async fn a_code_works_ten_minutes_and_not_longer() {
    let world = World::new().await;
    let process = world.process().await;
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    world.pass(Millis(10 * 60_000));
    let refused = process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await;
    assert_eq!(refused.expect_err("expired").code, Code::InvalidOrExpiredCode);
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(2).await;
    world.pass(Millis(10 * 60_000 - 1));
    process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await.expect("in time");
}

#[tokio::test]
async fn after_five_wrong_codes_the_right_one_is_refused_too() {
    let world = World::new().await;
    let process = world.process().await;
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    for _ in 0..5 {
        let wrong = verify("a@example.org", Some(challenge), &wrong(&code));
        process.send(world.envelope(wrong)).await.expect_err("wrong");
    }
    let refused = process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await;
    assert_eq!(refused.expect_err("over-tried").code, Code::InvalidOrExpiredCode);
}

/// Which code is the newest, the process that sent it knows (docs/decisions/several-commands-services.md).
#[tokio::test]
async fn codes_of_two_processes_work_once_each_and_for_one_account() {
    let world = World::new().await;
    let (first, second) = (world.process().await, world.process().await);
    let old = first.ask_for_code(&world, "a@example.org").await;
    let old_code = world.mailbox.code(1).await;
    let new = second.ask_for_code(&world, "a@example.org").await;
    let new_code = world.mailbox.code(2).await;
    for (process, challenge, code) in [(&first, new, &new_code), (&second, old, &old_code)] {
        let right = || world.envelope(verify("a@example.org", Some(challenge), code));
        process.send(right()).await.expect("the first time");
        let refused = process.send(right()).await.expect_err("the second time");
        assert_eq!(refused.code, Code::InvalidOrExpiredCode);
    }
    assert_eq!(second.view(&world, |directory| directory.accounts.iter().count()).await, 1);
}

#[tokio::test]
async fn a_new_code_ends_the_old_one_of_its_process_on_every_process() {
    let world = World::new().await;
    let (first, second) = (world.process().await, world.process().await);
    let old = first.ask_for_code(&world, "a@example.org").await;
    let new = first.ask_for_code(&world, "a@example.org").await;
    let (old_code, new_code) = (world.mailbox.code(1).await, world.mailbox.code(2).await);
    let refused = second.send(world.envelope(verify("a@example.org", Some(old), &old_code))).await;
    assert_eq!(refused.expect_err("replaced").code, Code::InvalidOrExpiredCode);
    second.send(world.envelope(verify("a@example.org", Some(new), &new_code))).await.expect("the newest");
}

#[tokio::test]
async fn without_a_challenge_the_newest_one_of_the_address_is_meant() {
    let world = World::new().await;
    let process = world.process().await;
    process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    let refused = process.send(world.envelope(verify("b@example.org", None, &code))).await;
    assert_eq!(refused.expect_err("none was asked for").code, Code::InvalidOrExpiredCode);
    process.send(world.envelope(verify("a@example.org", None, &code))).await.expect("right");
}

fn with_secret(command: Command, secret: &str) -> Command {
    match command {
        Command::VerifyCode { email, challenge, proof, network, kind, credential, .. } => {
            let page_secret = Some(Personal::new(secret));
            Command::VerifyCode { email, challenge, proof, page_secret, network, kind, credential }
        }
        other => other,
    }
}

#[tokio::test]
async fn a_bound_challenge_is_for_its_page_and_strangers_spend_none_of_its_tries() {
    let world = World::new().await;
    let process = world.process().await;
    let bind = Some(Sha256::digest(b"page secret").into());
    let request = Command::RequestCode { email: Personal::new("a@example.org"), bind, network: None };
    let challenge = challenge_of(process.send(world.envelope(request)).await.expect("asked"));
    let code = world.mailbox.code(1).await;
    let right = || verify("a@example.org", Some(challenge), &code);
    for _ in 0..4 {
        process.send(world.envelope(right())).await.expect_err("no secret");
        process.send(world.envelope(with_secret(right(), "another"))).await.expect_err("another secret");
        process.send(world.envelope(verify("a@example.org", None, &code))).await.expect_err("not unbound");
    }
    process.send(world.envelope(with_secret(right(), "page secret"))).await.expect("its page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_hundred_guesses_at_once_five_are_compared() {
    let world = Arc::new(World::new().await);
    let process = Arc::new(world.process().await);
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    let guesses = (0..200).map(|n| {
        // Every third guess is right, so that what is compared could let somebody in.
        let guess = if n % 3 == 0 { code.clone() } else { wrong(&code) };
        let envelope = world.envelope(verify("a@example.org", Some(challenge), &guess));
        let process = process.clone();
        tokio::spawn(async move { process.send(envelope).await.is_ok() })
    });
    let mut let_in = 0;
    for guess in guesses.collect::<Vec<_>>() {
        let_in += usize::from(guess.await.expect("no panic"));
    }
    let attempts = Filter::exactly(&SubjectKind::ChallengeAttempts(challenge).into());
    let spent = read_to_end(&world.log, Log::Auth, attempts, Sequence::NONE).await.expect("memory").len();
    assert!(spent <= 5 && let_in <= 1, "{spent} compared, {let_in} let in");
    assert!(spent == 5 || let_in == 1, "{spent} compared, {let_in} let in");
}

/// Counts what is counted under one name by the threads that have it as their recorder.
struct Counted {
    name: &'static str,
    count: Arc<AtomicU64>,
}

impl metrics::Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() == self.name { Counter::from_arc(self.count.clone()) } else { Counter::noop() }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Threads of their own, on which every comparison of a code is counted.
fn counting_comparisons() -> (tokio::runtime::Runtime, Arc<AtomicU64>) {
    let count = Arc::<AtomicU64>::default();
    let counted = Counted { name: "omnirun_code_tries_total", count: count.clone() };
    let counted: &'static Counted = Box::leak(Box::new(counted));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        // For as long as the thread lives.
        .on_thread_start(|| std::mem::forget(metrics::set_default_local_recorder(counted)))
        .build();
    (runtime.expect("threads"), count)
}

#[test]
fn of_two_hundred_wrong_guesses_at_once_exactly_five_are_compared_and_the_right_code_is_refused_after_them() {
    let (runtime, compared) = counting_comparisons();
    let test = async move {
        let world = World::new().await;
        let process = Arc::new(world.process().await);
        let challenge = process.ask_for_code(&world, "a@example.org").await;
        let code = world.mailbox.code(1).await;
        let guesses = (0..200).map(|_| {
            let envelope = world.envelope(verify("a@example.org", Some(challenge), &wrong(&code)));
            let process = process.clone();
            tokio::spawn(async move { process.send(envelope).await.expect_err("a wrong code").code })
        });
        for guess in guesses.collect::<Vec<_>>() {
            assert_eq!(guess.await.expect("no panic"), Code::InvalidOrExpiredCode);
        }
        assert_eq!(compared.load(Ordering::SeqCst), 5);
        let right = process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await;
        assert_eq!(right.expect_err("over-tried").code, Code::InvalidOrExpiredCode);
        assert_eq!(compared.load(Ordering::SeqCst), 5);
    };
    runtime.block_on(runtime.spawn(test)).expect("no panic");
}

#[tokio::test]
async fn known_and_unknown_addresses_make_the_same_calls_in_the_same_order() {
    let world = World::new().await;
    let quiet = world.process().await;
    world.sign_in(&quiet, "known@example.org").await;
    let recorder = Recorder::default();
    let process = world.recorded(&recorder).await;
    let mut calls = Vec::new();
    for (n, email) in ["known@example.org", "unknown@example.org", "another@example.org"].iter().enumerate() {
        recorder.take();
        process.ask_for_code(&world, email).await;
        world.mailbox.count(n + 2).await;
        calls.push(recorder.take());
    }
    // Whatever a first request warms up is warm in the second, so the known address is asked for once more at the end.
    recorder.take();
    process.ask_for_code(&world, "known@example.org").await;
    world.mailbox.count(5).await;
    let replacing = recorder.take();
    assert!(calls[0].len() == 5, "random bytes, a look, an append, a look, a mail: {:?}", calls[0]);
    assert_eq!(calls[0], calls[1]);
    assert_eq!(calls[1], calls[2]);
    assert_ne!(replacing, calls[0], "the recorder sees that a code took another one's place");
}

/// What a command asks of the world, and the answer, without the ids that differ by chance.
async fn calls(process: &Process, recorder: &Recorder, envelope: Envelope) -> (Vec<String>, String) {
    recorder.take();
    let answer = match process.send(envelope).await {
        Ok(reply) => match reply.outcome {
            Outcome::CodeRequested { expires_in, .. } => format!("a code for {expires_in:?}"),
            other => panic!("{other:?}"),
        },
        Err(refused) => format!("{:?}, {:?}", refused.code, refused.retry_after),
    };
    // The mail goes out beside the answer: it is compared above.
    let calls = recorder.take().into_iter().filter(|call| !call.starts_with("a mail"));
    (calls.collect(), answer)
}

/// Known, unknown, about to be erased, and asked for so often that its codes are long.
const KINDS: [&str; 4] =
    ["known@example.org", "unknown@example.org", "closing@example.org", "busy@example.org"];

#[tokio::test]
async fn a_wrong_code_makes_the_same_calls_whatever_its_address_is() {
    let world = World::new().await;
    let quiet = world.process().await;
    let [known, _, closing, busy] = KINDS;
    world.sign_in(&quiet, known).await;
    let account = world.sign_in(&quiet, closing).await;
    let recorder = Recorder::default();
    let process = world.recorded(&recorder).await;
    for n in 0..40 {
        process.send(world.envelope(from_network(request_code(busy), n))).await.expect("never refused");
    }
    let confirm = Personal::new(closing);
    process.send(world.envelope(Command::CloseAccount { account, confirm })).await.expect("theirs");
    for is_named in [true, false] {
        let mut all = Vec::new();
        for email in KINDS {
            let challenge = process.ask_for_code(&world, email).await;
            let guess = verify(email, is_named.then_some(challenge), "no code");
            all.push(calls(&process, &recorder, world.envelope(guess)).await);
        }
        assert!(all.iter().all(|made| *made == all[0]), "{all:?}");
        assert!(all[0].0.len() == 5 && all[0].1.contains("InvalidOrExpiredCode"), "{:?}", all[0]);
    }
}

#[tokio::test]
async fn a_refused_address_makes_the_same_calls_whether_it_is_known_or_not() {
    let world = World::new().await;
    let quiet = world.process().await;
    world.sign_in(&quiet, KINDS[0]).await;
    let recorder = Recorder::default();
    let process = world.recorded(&recorder).await;
    let mut all = Vec::new();
    for email in &KINDS[..2] {
        for _ in 0..10 {
            process.send(world.envelope(from_network(request_code(email), 1))).await.expect("one of ten");
        }
        let once_more = world.envelope(from_network(request_code(email), 1));
        all.push(calls(&process, &recorder, once_more).await);
        process.send(world.envelope(from_network(request_code(email), 2))).await.expect("not from elsewhere");
    }
    assert!(all[0] == all[1] && all[0].1.contains("RateLimited"), "{all:?}");
}

#[tokio::test]
async fn asked_again_after_its_end_a_code_says_the_same_of_every_address() {
    let world = World::new().await;
    let process = world.process().await;
    world.sign_in(&process, KINDS[0]).await;
    let asked = KINDS[..2].iter().map(|email| world.envelope(request_code(email))).collect::<Vec<_>>();
    for envelope in &asked {
        process.send(envelope.clone()).await.expect("asked");
    }
    world.pass(Millis(11 * 60_000));
    for envelope in asked {
        let envelope = Envelope { id: envelope.id, ..world.envelope(envelope.command) };
        let refused = process.send(envelope).await.expect_err("over");
        assert_eq!(refused.code, Code::IdempotencyConflict);
    }
}

#[tokio::test]
async fn one_network_leaves_the_owner_of_a_code_a_try() {
    let world = World::new().await;
    let process = world.process().await;
    process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    for _ in 0..10 {
        let guess = from_network(verify("a@example.org", None, &wrong(&code)), 1);
        let refused = process.send(world.envelope(guess)).await.expect_err("a guess");
        assert_eq!(refused.code, Code::InvalidOrExpiredCode);
    }
    let right = from_network(verify("a@example.org", None, &code), 2);
    process.send(world.envelope(right)).await.expect("there is one left");
}

#[tokio::test]
async fn known_and_unknown_addresses_get_the_same_answer() {
    let world = World::new().await;
    let process = world.process().await;
    world.sign_in(&process, "known@example.org").await;
    let mut answers = Vec::new();
    for email in ["known@example.org", "unknown@example.org"] {
        match process.send(world.envelope(request_code(email))).await.expect("asked").outcome {
            Outcome::CodeRequested { expires_in, resend_after, .. } => {
                answers.push((expires_in, resend_after))
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], (Millis(600_000), Millis(30_000)));
}

#[tokio::test]
async fn text_that_is_no_address_gets_no_code() {
    let world = World::new().await;
    let process = world.process().await;
    let refused = process.send(world.envelope(request_code("a b@example.org"))).await;
    assert_eq!(refused.expect_err("no address").code, Code::Invalid);
}

#[tokio::test]
async fn signing_in_makes_no_api_tokens() {
    let world = World::new().await;
    let process = world.process().await;
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    let mut command = verify("a@example.org", Some(challenge), &code);
    if let Command::VerifyCode { kind, .. } = &mut command {
        *kind = TokenKind::Api;
    }
    assert_eq!(process.send(world.envelope(command)).await.expect_err("not here").code, Code::Invalid);
}

#[tokio::test]
async fn neither_a_code_nor_an_address_is_in_any_log() {
    let world = World::new().await;
    let process = world.process().await;
    world.sign_in(&process, "canary.address@example.org").await;
    let code = world.mailbox.code(1).await;
    let mut bytes = Vec::new();
    for log in [Log::Events, Log::Keys, Log::Auth] {
        let stored = read_to_end(&world.log, log, Filter::all(), Sequence::NONE).await.expect("memory");
        assert!(!stored.is_empty(), "{log} has records");
        stored.iter().for_each(|stored| bytes.extend_from_slice(&stored.record));
    }
    let contains = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
    assert!(contains("account.opened"), "the search finds what is there");
    assert!(!contains("canary.address") && !contains(&code));
}
