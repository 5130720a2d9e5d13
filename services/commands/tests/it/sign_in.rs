//! Codes: what lets in, what does not, and how often.

use std::sync::Arc;

use omnirun_commands_api::command::Personal;
use omnirun_commands_api::{Code, Command, Outcome};
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

#[tokio::test]
async fn a_new_code_ends_the_old_one_on_every_process() {
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
        Command::VerifyCode { email, challenge, proof, kind, credential, .. } => {
            let page_secret = Some(Personal(secret.to_owned()));
            Command::VerifyCode { email, challenge, proof, page_secret, kind, credential }
        }
        other => other,
    }
}

#[tokio::test]
async fn a_bound_challenge_is_for_its_page_and_strangers_spend_none_of_its_tries() {
    let world = World::new().await;
    let process = world.process().await;
    let bind = Some(Sha256::digest(b"page secret").into());
    let request = Command::RequestCode { email: Personal("a@example.org".to_owned()), bind, network: None };
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
    assert!(calls[0].len() == 4, "random bytes, a look, an append, a mail: {:?}", calls[0]);
    assert_eq!(calls[0], calls[1]);
    assert_eq!(calls[1], calls[2]);
    assert_ne!(replacing, calls[0], "the recorder sees that a code took another one's place");
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
