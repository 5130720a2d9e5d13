//! Erasing an account: whichever process goes on, after whichever step, nothing of it is left.

use std::collections::BTreeSet;

use omnirun_commands_api::command::{Personal, Whose};
use omnirun_commands_api::{Code, Command, Outcome};
use omnirun_events::erasure::ErasureFinished;
use omnirun_events::host::HostCaughtUp;
use omnirun_events::id::ReceiptId;
use omnirun_events::log::read_to_end;
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
    let command = Command::CloseAccount { account, confirm: Personal(EMAIL.to_owned()) };
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
    let wrong = Command::CloseAccount { account, confirm: Personal("b@example.org".to_owned()) };
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
    for _ in 0..10 {
        if let Some(through) = process
            .view(&world, |directory| directory.accounts.get(account)?.closing.as_ref()?.quiet_at)
            .await
        {
            world.as_worker(SubjectKind::Host(HOST), HostCaughtUp { through }).await;
            process.view(&world, |_| ()).await;
        }
        world.pass(Millis(4_000));
        process.service.go_on_erasing().await.expect("memory");
    }
    assert!(is_finished(&world).await);
    let refused = process.send(world.envelope(verify(EMAIL, Some(challenge), &code))).await;
    assert_eq!(refused.expect_err("the code is used up").code, Code::InvalidOrExpiredCode);
    nothing_of(account, &everything(&world).await);
}

#[tokio::test]
async fn an_operators_erasure_names_who_and_why_and_nobody_else() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, EMAIL).await;
    let erase = |reason: &str| Command::EraseAccount {
        whose: Whose::Address(Personal(EMAIL.to_owned())),
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
