//! Another address: proved by a code, told to the old one, and the old one unreadable from then on.

use std::sync::Arc;

use async_trait::async_trait;
use omnirun_commands::Parts;
use omnirun_commands_api::command::Personal;
use omnirun_commands_api::mail::{Content, Mail, MailError, SendMail};
use omnirun_commands_api::{Code, Command, Outcome};
use omnirun_events::auth::CodeProof;
use omnirun_events::log::read_to_end;
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::*;
use tokio::sync::Notify;

use crate::support::*;

fn request(account: AccountId, email: &str) -> Command {
    Command::RequestEmailChange { account, email: Personal::new(email), network: None }
}

fn change(account: AccountId, email: &str, challenge: ChallengeId, code: &str) -> Command {
    let (email, proof) = (Personal::new(email), CodeProof::of(challenge, code));
    Command::ChangeEmail { account, email, challenge, proof }
}

/// Asks for a code to the new address and answers with its challenge and the code.
async fn ask(world: &World, process: &Process, account: AccountId, email: &str) -> (ChallengeId, String) {
    let mails = world.mailbox.recipients().len();
    let reply = process.send(world.envelope(request(account, email))).await.expect("an address");
    (challenge_of(reply), world.mailbox.code(mails + 1).await)
}

async fn keys_in_log(world: &World) -> Vec<String> {
    let records = read_to_end(&world.log, Log::Keys, Filter::all(), Sequence::NONE).await.expect("memory");
    records.into_iter().map(|stored| stored.subject.to_string()).collect()
}

#[tokio::test]
async fn the_new_address_signs_in_the_old_one_is_told_and_its_key_is_destroyed() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "old@example.org").await;
    let before = process.view(&world, |directory| directory.accounts.get(account).cloned()).await;
    let before = before.expect("it signed in").email;
    assert_eq!(before.key, DataKeyLabel::Address(1));

    let (challenge, code) = ask(&world, &process, account, "new@example.org").await;
    let done = process.send(world.envelope(change(account, "New@Example.org", challenge, &code))).await;
    assert!(matches!(done.expect("right code").outcome, Outcome::EmailChanged));
    world.mailbox.count(3).await;
    assert_eq!(world.mailbox.recipients(), ["old@example.org", "new@example.org", "old@example.org"]);

    assert_eq!(keys_in_log(&world).await, [format!("key.{account}.address.2")]);
    let opened = Command::OpenFields { account, fields: vec![email_field(account, before)] };
    let opened = process.send(world.envelope(opened)).await.expect("allowed").outcome;
    assert!(matches!(opened, Outcome::FieldsOpened(fields) if fields == [None]), "the old address is gone");

    assert_eq!(world.sign_in(&process, "new@example.org").await, account);
    assert_ne!(world.sign_in(&process, "old@example.org").await, account, "it is free for somebody else");
    let second = world.process().await;
    assert_eq!(world.sign_in(&second, "new@example.org").await, account);
}

/// Takes codes at once, and the notice to an old address only when it may.
struct Slow {
    mailbox: Arc<Mailbox>,
    may: Notify,
    is_asked: Notify,
}

#[async_trait]
impl SendMail for Slow {
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
        if matches!(mail.content, Content::EmailChanged) {
            self.is_asked.notify_one();
            self.may.notified().await;
        }
        self.mailbox.send_mail(mail).await
    }
}

#[tokio::test]
async fn the_old_addresss_key_is_there_until_the_mail_server_has_its_notice() {
    let world = World::new().await;
    let slow = Arc::new(Slow { mailbox: world.mailbox.clone(), may: Notify::new(), is_asked: Notify::new() });
    let process = world.process_of(|parts| Parts { mail: slow.clone(), ..parts }).await;
    let account = world.sign_in(&process, "old@example.org").await;
    let (challenge, code) = ask(&world, &process, account, "new@example.org").await;
    let keys =
        |versions: &[u32]| versions.iter().map(|n| format!("key.{account}.address.{n}")).collect::<Vec<_>>();
    let watch = async {
        slow.is_asked.notified().await;
        assert_eq!(keys_in_log(&world).await, keys(&[1, 2]));
        slow.may.notify_one();
    };
    let change = process.send(world.envelope(change(account, "new@example.org", challenge, &code)));
    let (done, ()) = tokio::join!(change, watch);
    done.expect("right");
    assert_eq!(keys_in_log(&world).await, keys(&[2]));
    assert_eq!(world.mailbox.recipients().last().map(String::as_str), Some("old@example.org"));
}

#[tokio::test]
async fn asked_again_after_it_was_done_it_is_done() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "old@example.org").await;
    let (challenge, code) = ask(&world, &process, account, "new@example.org").await;
    for _ in 0..2 {
        let done = process.send(world.envelope(change(account, "new@example.org", challenge, &code))).await;
        assert!(matches!(done.expect("the same wish").outcome, Outcome::EmailChanged));
    }
    let changes = read_to_end(&world.log, Log::Events, Filter::account(account), Sequence::NONE).await;
    let is_change = |stored: &log::Stored| stored.subject == SubjectKind::Account(account).into();
    assert_eq!(changes.expect("memory").iter().filter(|stored| is_change(stored)).count(), 2);
}

#[tokio::test]
async fn an_address_of_another_account_is_refused_only_to_who_reads_its_mail() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let owner = world.sign_in(&process, "b@example.org").await;
    let (challenge, code) = ask(&world, &process, account, "b@example.org").await;
    let guess =
        process.send(world.envelope(change(account, "b@example.org", challenge, &wrong(&code)))).await;
    assert_eq!(guess.expect_err("a wrong code").code, Code::InvalidOrExpiredCode);
    let right = process.send(world.envelope(change(account, "b@example.org", challenge, &code))).await;
    assert_eq!(right.expect_err("taken").code, Code::AddressTaken);
    assert_eq!(world.sign_in(&process, "b@example.org").await, owner);
}

#[tokio::test]
async fn a_code_does_only_what_it_was_sent_for_and_only_for_its_account() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let other = world.sign_in(&process, "b@example.org").await;
    let (challenge, code) = ask(&world, &process, account, "new@example.org").await;
    let sign_in = process.send(world.envelope(verify("new@example.org", Some(challenge), &code))).await;
    assert_eq!(sign_in.expect_err("no code to sign in").code, Code::InvalidOrExpiredCode);
    let foreign = process.send(world.envelope(change(other, "new@example.org", challenge, &code))).await;
    assert!(foreign.is_err(), "the code is bound to the account that asked");
    let mails = world.mailbox.recipients().len();
    let challenge = process.ask_for_code(&world, "new@example.org").await;
    let code = world.mailbox.code(mails + 1).await;
    let change = process.send(world.envelope(change(account, "new@example.org", challenge, &code))).await;
    assert_eq!(change.expect_err("no code to change").code, Code::InvalidOrExpiredCode);
}

#[tokio::test]
async fn a_new_code_ends_the_older_one_of_its_account_and_nobody_elses() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let other = world.sign_in(&process, "b@example.org").await;
    let (old, old_code) = ask(&world, &process, account, "new@example.org").await;
    let (new, new_code) = ask(&world, &process, account, "new@example.org").await;
    ask(&world, &process, other, "new@example.org").await;
    let mails = world.mailbox.recipients().len();
    process.ask_for_code(&world, "new@example.org").await;
    world.mailbox.count(mails + 1).await;
    let refused = process.send(world.envelope(change(account, "new@example.org", old, &old_code))).await;
    assert_eq!(refused.expect_err("replaced").code, Code::InvalidOrExpiredCode);
    process.send(world.envelope(change(account, "new@example.org", new, &new_code))).await.expect("newest");
}

#[tokio::test]
async fn another_account_spends_no_tries() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let other = world.sign_in(&process, "b@example.org").await;
    let (challenge, code) = ask(&world, &process, account, "new@example.org").await;
    for _ in 0..6 {
        let foreign = process.send(world.envelope(change(other, "new@example.org", challenge, &code))).await;
        assert_eq!(foreign.expect_err("not theirs").code, Code::InvalidOrExpiredCode);
    }
    process.send(world.envelope(change(account, "new@example.org", challenge, &code))).await.expect("right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_accounts_that_want_one_address_one_gets_it() {
    for _ in 0..10 {
        let world = World::new().await;
        let (first, second) = (world.process().await, world.process().await);
        let a = world.sign_in(&first, "a@example.org").await;
        let b = world.sign_in(&first, "b@example.org").await;
        let of_a = ask(&world, &first, a, "c@example.org").await;
        let of_b = ask(&world, &second, b, "c@example.org").await;
        let (one, two) = tokio::join!(
            first.send(world.envelope(change(a, "c@example.org", of_a.0, &of_a.1))),
            second.send(world.envelope(change(b, "c@example.org", of_b.0, &of_b.1))),
        );
        let taken = [one, two].into_iter().filter_map(Result::err).map(|no| no.code).collect::<Vec<_>>();
        assert_eq!(taken, [Code::AddressTaken]);
    }
}
