//! Erasing an account: whichever process goes on, after whichever step, nothing of it is left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use omnirun_commands::Parts;
use omnirun_commands_api::command::{Personal, Whose};
use omnirun_commands_api::mail::{Content, Mail, MailError, SendMail};
use omnirun_commands_api::{Code, Command, Outcome};
use omnirun_events::erasure::ErasureFinished;
use omnirun_events::host::HostCaughtUp;
use omnirun_events::id::ReceiptId;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{EraseError, read_to_end};
use omnirun_events::sandbox::{SandboxClaimed, SandboxStopped, StopReason};
use omnirun_events::subject::Slot;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::*;
use omnirun_projections::{Directory, Fold as _};
use omnirun_runner::{Source, rebuild};

use crate::support::*;

const EMAIL: &str = "a@example.org";

/// Turns until an erasure is done, at most.
const TURNS_MAX: usize = 40;

/// Every record of every log but AUTH.
async fn everything(world: &World) -> Vec<Stored> {
    let mut all = Vec::new();
    for log in Log::kept() {
        all.extend(read_to_end(&world.log, log, Filter::all(), Sequence::NONE).await.expect("memory"));
    }
    all
}

/// An account with a token, a sandbox that ran and is claimed, and a meter.
async fn lived(world: &World, process: &Process) -> (AccountId, SandboxId) {
    let account = world.sign_in(process, EMAIL).await;
    let token = Command::CreateToken { account, wish: token_wish(), credential: credential() };
    process.send(world.envelope(token)).await.expect("open");
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let Outcome::SandboxRequested { sandbox, .. } =
        process.send(world.envelope(request)).await.expect("room").outcome
    else {
        panic!("not admitted")
    };
    world.as_worker(SubjectKind::Sandbox(account, sandbox), SandboxClaimed { host: HOST }).await;
    meter(world, account, sandbox, 1).await;
    (account, sandbox)
}

async fn meter(world: &World, account: AccountId, sandbox: SandboxId, period: u32) {
    let reading = UsageMetered { period, observed_at: world.time(), meter: Meter::default() };
    world.as_worker(SubjectKind::Usage(Slot::of(world.time()), account, sandbox), reading).await;
}

async fn close(world: &World, process: &Process, account: AccountId) -> ReceiptId {
    let command = Command::CloseAccount { account, confirm: Personal::new(EMAIL) };
    match process.send(world.envelope(command)).await.expect("it is theirs").outcome {
        Outcome::AccountClosing { receipt, .. } => receipt,
        other => panic!("{other:?}"),
    }
}

/// What the host does meanwhile: it ends the sandbox, and says that it has nothing more to say.
async fn host_works(world: &World, process: &Process, account: AccountId, sandbox: SandboxId) {
    let (state, quiet_at) = process
        .view(world, |directory| {
            let closing = directory.accounts.get(account).and_then(|account| account.closing.clone());
            (
                directory.sandboxes.get(sandbox).map(|sandbox| sandbox.state),
                closing.and_then(|closing| closing.quiet_at),
            )
        })
        .await;
    if state.is_some_and(|state| state.as_str() == "stopping") {
        let stopped = SandboxStopped {
            reason: StopReason::Requested,
            stopped_at: world.time(),
            meter: Meter::default(),
            teardown: Millis(1),
        };
        world.as_worker(SubjectKind::Sandbox(account, sandbox), stopped).await;
    }
    if let Some(through) = quiet_at {
        let said = process
            .view(world, |directory| directory.hosts.get(HOST).map(|host| host.caught_up))
            .await
            .unwrap_or_default();
        if said < through {
            world.as_worker(SubjectKind::Host(HOST), HostCaughtUp { through }).await;
        }
    }
}

async fn is_finished(world: &World) -> bool {
    everything(world).await.iter().any(|stored| {
        let record = codec::decode(&stored.record).expect("a record");
        record.events.iter().any(|event| matches!(event, Event::ErasureFinished(ErasureFinished { .. })))
    })
}

/// Takes the erasure of an account without sandboxes to its end.
async fn erased_by(world: &World, process: &Process, account: AccountId) {
    for _ in 0..10 {
        if let Some(through) =
            process.view(world, |directory| directory.accounts.get(account)?.closing.as_ref()?.quiet_at).await
        {
            world.as_worker(SubjectKind::Host(HOST), HostCaughtUp { through }).await;
            process.view(world, |_| ()).await;
        }
        world.pass(Millis(4_000));
        process.service.go_on_erasing().await.expect("memory");
    }
    assert!(is_finished(world).await);
}

#[track_caller]
fn nothing_of(account: AccountId, all: &[Stored]) {
    let text = account.to_string();
    for stored in all {
        assert_ne!(stored.subject.kind().account(), Some(account), "{}", stored.subject);
        for id in [text.as_bytes(), account.as_bytes().as_slice()] {
            let names_it = stored.record.windows(id.len()).any(|window| window == id);
            assert!(!names_it, "{} names the account", stored.subject);
        }
    }
}

/// Each turn is another process's, which knows nothing but the log: a kill after every step.
#[tokio::test]
async fn whichever_process_goes_on_nothing_of_the_account_is_left() {
    let world = World::new().await;
    let process = world.process().await;
    let (account, sandbox) = lived(&world, &process).await;
    let other = world.sign_in(&process, "b@example.org").await;
    let receipt = close(&world, &process, account).await;
    let keys_before = everything(&world).await;
    drop(process);
    let mut turns = 0;
    while !is_finished(&world).await {
        turns += 1;
        assert!(turns < TURNS_MAX, "it does not come to an end");
        let process = world.process().await;
        host_works(&world, &process, account, sandbox).await;
        world.pass(Millis(61_000));
        process.service.go_on_erasing().await.expect("memory");
        process.view(&world, |_| ()).await;
    }
    assert!(turns > 3, "steps are taken one by one: {turns}");
    let all = everything(&world).await;
    nothing_of(account, &all);
    assert!(keys_before.iter().any(|stored| stored.subject.kind() == SubjectKind::AccountKey(account)));
    assert!(all.iter().any(|stored| stored.subject.kind().account() == Some(other)), "another account stays");
    let finished = all.iter().filter_map(|stored| codec::decode(&stored.record).ok()).any(|record| {
        record
            .events
            .iter()
            .any(|event| matches!(event, Event::ErasureFinished(finished) if finished.receipt == receipt))
    });
    assert!(finished);

    // What is there is what a rebuild makes, and the address is free.
    let process = world.process().await;
    let digest = process.view(&world, |directory| directory.digest()).await;
    let root = world.root.public();
    let (everywhere, depth) = (Default::default(), omnirun_events::verify::Depth::Signatures);
    let rebuilt = rebuild::<Directory>(&world.log, &root, Source::Events, &everywhere, depth).await;
    assert_eq!(rebuilt.expect("the log is whole").state.digest(), digest);
    let anew = world.sign_in(&process, EMAIL).await;
    assert_ne!(anew, account);
    nothing_of(account, &everything(&world).await);
}

/// Where a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The keys are gone, and nothing says so yet.
    AfterKeys,
    /// The tombstones are written, and what they name is still there.
    BeforeRecords,
}

/// Erases until it is cut off, and nothing after that.
struct CutOff {
    log: MemoryLog,
    cut: Cut,
    is_cut: AtomicBool,
}

impl CutOff {
    fn gone(&self, log: Log) -> EraseError {
        self.is_cut.store(true, Ordering::SeqCst);
        EraseError { log, source: "killed".into() }
    }
}

#[async_trait]
impl Erase for CutOff {
    async fn purge_through(&self, subject: &Subject, through: Sequence) -> Result<u64, EraseError> {
        if self.cut == Cut::BeforeRecords || self.is_cut.load(Ordering::SeqCst) {
            return Err(self.gone(subject.log()));
        }
        self.log.purge_through(subject, through).await
    }

    async fn purge_all(&self, log: Log, filter: Filter) -> Result<u64, EraseError> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(self.gone(log));
        }
        let purged = self.log.purge_all(log, filter).await?;
        if self.cut == Cut::AfterKeys { Err(self.gone(log)) } else { Ok(purged) }
    }
}

/// Whether a record of the account says that it is closed; whether a key of it is left; whether a record is under a tombstone and still there.
async fn stands(world: &World, account: AccountId) -> (bool, bool, bool) {
    let all = everything(world).await;
    let of_account = |stored: &&Stored| stored.subject.kind().account() == Some(account);
    let says = |stored: &Stored, is: fn(&Event) -> bool| {
        codec::decode(&stored.record).expect("a record").events.iter().any(is)
    };
    let is_closed = all
        .iter()
        .filter(of_account)
        .any(|stored| says(stored, |event| matches!(event, Event::AccountClosed(_))));
    let has_keys = all.iter().filter(of_account).any(|stored| stored.subject.log() == Log::Keys);
    let is_buried = all.iter().any(|stored| says(stored, |event| matches!(event, Event::RecordsErased(_))));
    (is_closed, has_keys, is_buried && all.iter().any(|stored| of_account(&stored)))
}

#[tokio::test]
async fn cut_off_at_the_two_worst_moments_an_erasure_is_finished_by_the_next_start() {
    for cut in [Cut::AfterKeys, Cut::BeforeRecords] {
        let world = World::new().await;
        let process = world.process().await;
        let (account, sandbox) = lived(&world, &process).await;
        let other = world.sign_in(&process, "b@example.org").await;
        close(&world, &process, account).await;
        drop(process);
        let erase = Arc::new(CutOff { log: world.log.clone(), cut, is_cut: AtomicBool::new(false) });
        let process = world.process_of(|parts| Parts { erase: erase.clone(), ..parts }).await;
        for _ in 0..TURNS_MAX {
            host_works(&world, &process, account, sandbox).await;
            world.pass(Millis(61_000));
            process.service.go_on_erasing().await.expect("it is cut off and says so");
            process.view(&world, |_| ()).await;
        }
        assert!(erase.is_cut.load(Ordering::SeqCst) && !is_finished(&world).await, "{cut:?}");
        let expected = match cut {
            Cut::AfterKeys => (false, false, false),
            Cut::BeforeRecords => (true, false, true),
        };
        assert_eq!(stands(&world, account).await, expected, "{cut:?}");
        drop(process);

        for _ in 0..TURNS_MAX {
            let process = world.process().await;
            world.pass(Millis(61_000));
            process.service.go_on_erasing().await.expect("memory");
            process.view(&world, |_| ()).await;
        }
        assert!(is_finished(&world).await, "{cut:?}");
        let all = everything(&world).await;
        nothing_of(account, &all);
        assert!(all.iter().any(|stored| stored.subject.kind().account() == Some(other)), "{cut:?}");
        let (everywhere, depth) = (Default::default(), omnirun_events::verify::Depth::Signatures);
        let root = world.root.public();
        let rebuilt = rebuild::<Directory>(&world.log, &root, Source::Events, &everywhere, depth).await;
        rebuilt.expect("the log is whole");
    }
}

/// Takes every mail but those to one address, for which it never answers.
struct Stuck {
    address: &'static str,
    mailbox: Arc<Mailbox>,
}

#[async_trait]
impl SendMail for Stuck {
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
        if mail.to.reveal() == self.address && matches!(mail.content, Content::ErasureReceipt { .. }) {
            std::future::pending::<()>().await;
        }
        self.mailbox.send_mail(mail).await
    }
}

#[tokio::test]
async fn an_erasure_that_waits_for_the_mail_server_holds_up_neither_others_nor_what_time_decides() {
    let world = World::new().await;
    let mail = Arc::new(Stuck { address: "stuck@example.org", mailbox: world.mailbox.clone() });
    let process = world.process_of(|parts| Parts { mail, ..parts }).await;
    let mut accounts = Vec::new();
    for email in ["stuck@example.org", "other@example.org"] {
        let account = world.sign_in(&process, email).await;
        let confirm = Personal::new(email);
        let close = Command::CloseAccount { account, confirm };
        process.send(world.envelope(close)).await.expect("it is theirs");
        accounts.push(account);
    }
    let busy = world.sign_in(&process, "busy@example.org").await;
    let reconciling = tokio::spawn(process.service.clone().reconcile());
    // Both are quiet after a moment, and the host has nothing more to say.
    for _ in 0..2 {
        world.pass(Millis(4_000));
        let live = process.follower.live();
        let quiet = |directory: &Directory| {
            let of = |account: &AccountId| directory.accounts.get(*account)?.closing.as_ref()?.quiet_at;
            accounts.iter().map(of).collect::<Option<Vec<_>>>()?.into_iter().max()
        };
        let through = live.until(PATIENCE, quiet).await.expect("they get quiet");
        world.as_worker(SubjectKind::Host(HOST), HostCaughtUp { through }).await;
    }
    let live = process.follower.live();
    let is_gone = |directory: &Directory| directory.accounts.get(accounts[1]).is_none().then_some(());
    live.until(PATIENCE, is_gone).await.expect("the other one is erased");
    assert!(process.view(&world, |directory| directory.accounts.get(accounts[0]).is_some()).await);

    let request = Command::RequestSandbox { account: busy, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
    world.pass(Millis(61_000));
    let has_failed =
        |directory: &Directory| directory.sandboxes.get(sandbox).filter(|one| one.state.is_final()).map(drop);
    live.until(PATIENCE, has_failed).await.expect("it fails in time");
    reconciling.abort();
}

/// The same with one process, a meter that comes when all is over, and the receipt.
#[tokio::test]
async fn what_a_late_host_says_goes_as_well_and_the_receipt_was_mailed() {
    let world = World::new().await;
    let process = world.process().await;
    let (account, sandbox) = lived(&world, &process).await;
    close(&world, &process, account).await;
    for _ in 0..TURNS_MAX {
        host_works(&world, &process, account, sandbox).await;
        world.pass(Millis(5_000));
        process.service.go_on_erasing().await.expect("memory");
    }
    assert!(is_finished(&world).await);
    let receipts = world.mailbox.receipts();
    assert_eq!(receipts.len(), 1);
    assert!(receipts[0].0 == EMAIL && receipts[0].1.contains("\"outside_the_proof\""), "{receipts:?}");
    meter(&world, account, sandbox, 2).await;
    world
        .as_worker(
            SubjectKind::Sandbox(account, sandbox),
            omnirun_events::sandbox::SandboxFailed {
                reason: omnirun_events::sandbox::FailReason::BootFailed,
            },
        )
        .await;
    process.view(&world, |_| ()).await;
    world.pass(Millis(61_000));
    process.service.go_on_erasing().await.expect("memory");
    nothing_of(account, &everything(&world).await);
}

#[tokio::test]
async fn a_closing_account_admits_nothing_and_its_credentials_are_dead() {
    let world = World::new().await;
    let process = world.process().await;
    let (account, _) = lived(&world, &process).await;
    let wrong = Command::CloseAccount { account, confirm: Personal::new("b@example.org") };
    let refused = process.send(world.envelope(wrong)).await.expect_err("not the account's address");
    assert_eq!(refused.code, Code::Invalid);
    let receipt = close(&world, &process, account).await;
    assert_eq!(close(&world, &process, account).await, receipt, "asked again, it is the same one");
    assert_eq!(process.view(&world, |directory| directory.tokens.of(account).count()).await, 0);
    let token = Command::CreateToken { account, wish: token_wish(), credential: credential() };
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    for command in [token, request] {
        let refused = process.send(world.envelope(command)).await.expect_err("it is closing");
        assert_eq!(refused.code, Code::AccountClosing);
    }
}

/// A code that was asked for before the account was erased opens neither it nor one under its id.
#[tokio::test]
async fn an_old_code_does_not_bring_an_erased_account_back() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, EMAIL).await;
    // The code is for this account, and not for one that would be opened.
    process.view(&world, |_| ()).await;
    let mails = world.mailbox.recipients().len();
    let challenge = process.ask_for_code(&world, EMAIL).await;
    let code = world.mailbox.code(mails + 1).await;
    close(&world, &process, account).await;
    erased_by(&world, &process, account).await;
    let refused = process.send(world.envelope(verify(EMAIL, Some(challenge), &code))).await;
    assert_eq!(refused.expect_err("the code is used up").code, Code::InvalidOrExpiredCode);
    nothing_of(account, &everything(&world).await);
}

/// Which addresses are free, the other process has not looked at since.
#[tokio::test]
async fn a_process_that_has_not_noticed_an_erasure_sends_no_code_for_the_id_that_is_gone() {
    let world = World::new().await;
    let (process, other) = (world.process().await, world.process().await);
    let account = world.sign_in(&process, EMAIL).await;
    // It knows the address, and has sent a code for the account.
    other.view(&world, |_| ()).await;
    other.ask_for_code(&world, EMAIL).await;
    close(&world, &process, account).await;
    erased_by(&world, &process, account).await;
    other.view(&world, |_| ()).await;
    for _ in 0..2 {
        let challenge = other.ask_for_code(&world, EMAIL).await;
        let subject = SubjectKind::ChallengeIssued(challenge).into();
        let stored = world.log.last(&subject).await.expect("memory").expect("issued");
        let record = codec::decode(&stored.record).expect("a record");
        let [Event::ChallengeIssued(issued)] = &record.events[..] else { panic!("{:?}", record.events) };
        assert_ne!(issued.account, account);
        // In the second round it has noticed.
        other.service.go_on_erasing().await.expect("memory");
    }
    // Two codes before, the receipt, and these two.
    world.mailbox.count(5).await;
    assert_ne!(world.sign_in(&process, EMAIL).await, account);
}

#[tokio::test]
async fn an_operators_erasure_names_who_and_why_and_nobody_else() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, EMAIL).await;
    let erase = |reason: &str| Command::EraseAccount {
        whose: Whose::Address(Personal::new(EMAIL)),
        operator: "night shift".to_owned(),
        reason: reason.to_owned(),
    };
    let by = |actor, command| omnirun_commands_api::Envelope { actor, ..world.envelope(command) };
    let refused = process.send(by(Actor::Account(account), erase("request 17"))).await;
    assert_eq!(refused.expect_err("not an operator").code, Code::NotFound);
    for reason in ["", "a@example.org asked", "two\nlines", &account.to_string()] {
        let refused = process.send(by(Actor::Operator, erase(reason))).await.expect_err(reason);
        assert_eq!(refused.code, Code::Invalid);
    }
    process.send(by(Actor::Operator, erase("request 17"))).await.expect("who and why are said");
    let ops = Filter::exactly(&SubjectKind::Ops.into());
    let said = read_to_end(&world.log, Log::Events, ops, Sequence::NONE).await.expect("memory");
    assert_eq!(said.len(), 1);
    let record = codec::decode(&said[0].record).expect("a record");
    assert!(
        matches!(&record.events[0], Event::OpsActed(acted) if acted.operator == "night shift" && acted.reason == "request 17")
    );
    nothing_of(account, &said);
}

/// A subject whose account is neither open nor closed is nobody's to remove.
#[tokio::test]
async fn records_without_a_closed_account_are_kept_while_their_account_is_there() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, EMAIL).await;
    process.service.go_on_erasing().await.expect("memory");
    world.pass(Millis(61_000));
    process.service.go_on_erasing().await.expect("memory");
    let subjects: BTreeSet<String> =
        everything(&world).await.iter().map(|stored| stored.subject.to_string()).collect();
    assert!(subjects.contains(&format!("evt.{account}.account.self")) && !subjects.contains("sys.erasure"));
}
