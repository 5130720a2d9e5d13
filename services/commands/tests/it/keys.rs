//! Data keys: swept when nothing needs them, wrapped anew by a rotation, unreadable once destroyed and rotated away.

use std::sync::Arc;

use async_trait::async_trait;
use omnirun_commands::Parts;
use omnirun_commands_api::{Command, Outcome};
use omnirun_events::event::Event;
use omnirun_events::keys::{DataKeyWrapped, DataKeysDestroyed};
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{AppendError, Erase, EraseError, read_to_end};
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::*;
use tokio::sync::{Notify, Semaphore};

use crate::support::*;

async fn wrapped(world: &World) -> Vec<DataKeyWrapped> {
    let records = read_to_end(&world.log, Log::Keys, Filter::all(), Sequence::NONE).await.expect("memory");
    let one = |stored: log::Stored| match codec::decode(&stored.record).expect("a record").events.remove(0) {
        Event::DataKeyWrapped(wrapped) => wrapped,
        other => panic!("no key: {other:?}"),
    };
    records.into_iter().map(one).collect()
}

async fn can_open(world: &World, process: &Process, account: AccountId) -> bool {
    let email =
        process.view(world, |directory| directory.accounts.get(account).expect("known").email.clone());
    let fields = vec![email_field(account, email.await)];
    let reply = process.send(world.envelope(Command::OpenFields { account, fields })).await.expect("allowed");
    matches!(reply.outcome, Outcome::FieldsOpened(fields) if fields[0].is_some())
}

#[tokio::test]
async fn a_rotation_wraps_every_key_anew_and_loses_none() {
    let world = World::new().await;
    let process = world.process().await;
    let mut accounts = Vec::new();
    for email in ["a@example.org", "b@example.org", "c@example.org"] {
        accounts.push(world.sign_in(&process, email).await);
    }
    let before = wrapped(&world).await;
    assert!(before.len() == 3 && before.iter().all(|key| key.epoch == 1));
    let rotated = process.service.rotate_master_key().await.expect("memory");
    assert_eq!((rotated.epoch, rotated.keys), (2, 3));
    let after = wrapped(&world).await;
    assert!(after.len() == 3 && after.iter().all(|key| key.epoch == 2), "each is there once: {after:?}");
    for account in &accounts {
        assert!(can_open(&world, &process, *account).await);
    }
    assert_eq!(world.sign_in(&process, "a@example.org").await, accounts[0]);
}

#[tokio::test]
async fn a_code_that_was_sent_before_a_rotation_still_signs_in() {
    let world = World::new().await;
    let process = world.process().await;
    let challenge = process.ask_for_code(&world, "a@example.org").await;
    let code = world.mailbox.code(1).await;
    process.service.rotate_master_key().await.expect("memory");
    let reply = process.send(world.envelope(verify("a@example.org", Some(challenge), &code))).await;
    assert!(matches!(reply.expect("the code was right").outcome, Outcome::SignedIn { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn people_who_sign_up_during_rotations_lose_nothing() {
    let world = Arc::new(World::new().await);
    let process = Arc::new(world.process().await);
    let mut accounts = Vec::new();
    for n in 0..20 {
        let rotation = tokio::spawn({
            let process = process.clone();
            async move { process.service.rotate_master_key().await.expect("memory") }
        });
        // A code outlives one rotation, and there is one at a time.
        accounts.push(world.sign_in(&process, &format!("a{n}@example.org")).await);
        rotation.await.expect("no panic");
    }
    let last = process.service.rotate_master_key().await.expect("memory").epoch;
    assert!(wrapped(&world).await.iter().all(|key| key.epoch == last));
    for account in accounts {
        assert!(can_open(&world, &process, account).await);
    }
}

#[tokio::test]
async fn rotations_of_one_process_go_one_after_the_other() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let (first, second) =
        tokio::join!(process.service.rotate_master_key(), process.service.rotate_master_key());
    let (first, second) = (first.expect("memory"), second.expect("memory"));
    assert_eq!([(first.epoch, first.keys), (second.epoch, second.keys)], [(2, 1), (3, 1)]);
    assert!(wrapped(&world).await.iter().all(|key| key.epoch == 3));
    assert!(can_open(&world, &process, account).await);
}

#[tokio::test]
async fn a_key_that_nothing_needs_is_swept_after_an_hour_and_no_other() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let nobody = AccountId::from_bytes([0x77; 16]);
    for kind in [SubjectKind::AccountKey(nobody), SubjectKind::AddressKey(account, 7)] {
        let key = wrapped(&world).await.remove(0);
        let label = match kind {
            SubjectKind::AccountKey(_) => DataKeyLabel::Account,
            _ => DataKeyLabel::Address(7),
        };
        let orphan = DataKeyWrapped { label, ..key };
        world.append(&commands_signer(), Actor::System(Role::Commands), kind, orphan).await;
    }
    assert_eq!(process.service.sweep_keys().await.expect("memory"), 0, "they may be about to be used");
    world.pass(Millis(3600 * 1000 + 1));
    assert_eq!(process.service.sweep_keys().await.expect("memory"), 2);
    assert!(wrapped(&world).await.len() == 1 && can_open(&world, &process, account).await);
    assert!(process.view(&world, |directory| directory.erasures.are_open()).await, "copies of them open");
    process.service.rotate_master_key().await.expect("memory");
    assert!(!process.view(&world, |directory| directory.erasures.are_open()).await);
}

/// Keys are destroyed when it is told to.
struct SlowErase {
    log: MemoryLog,
    arrived: Notify,
    go: Notify,
}

#[async_trait]
impl Erase for SlowErase {
    async fn purge_through(&self, subject: &Subject, last: Sequence) -> Result<u64, EraseError> {
        self.log.purge_through(subject, last).await
    }

    async fn purge_all(&self, log: Log, filter: Filter) -> Result<u64, EraseError> {
        self.arrived.notify_one();
        self.go.notified().await;
        self.log.purge_all(log, filter).await
    }
}

#[tokio::test]
async fn no_rotation_begins_between_the_record_of_keys_that_go_and_their_end() {
    let world = World::new().await;
    let (log, arrived, go) = (world.log.clone(), Notify::new(), Notify::new());
    let erase = Arc::new(SlowErase { log, arrived, go });
    let process = world.process_of(|parts| Parts { erase: erase.clone(), ..parts }).await;
    let account = world.sign_in(&process, "a@example.org").await;
    let old = DataKeyWrapped { label: DataKeyLabel::Day(20_200_101), ..wrapped(&world).await.remove(0) };
    let kind = SubjectKind::DayKey(account, 20_200_101);
    world.append(&commands_signer(), Actor::System(Role::Commands), kind, old).await;
    let rotation = async {
        erase.arrived.notified().await;
        let mut rotation = std::pin::pin!(process.service.rotate_master_key());
        for _ in 0..100 {
            let is_ready = std::future::poll_fn(|context| {
                std::task::Poll::Ready(rotation.as_mut().poll(context).is_ready())
            });
            assert!(!is_ready.await, "the key is still there");
            tokio::task::yield_now().await;
        }
        erase.go.notify_one();
        rotation.await.expect("its turn has come")
    };
    let (expired, rotated) = tokio::join!(process.service.expire(&world.log), rotation);
    assert_eq!((expired.keys, rotated.keys), (1, 1));
    assert!(!process.view(&world, |directory| directory.erasures.are_open()).await);
}

/// Appends to KEYS wait for a permit each while there is none.
struct Gated {
    log: MemoryLog,
    arrived: Notify,
    permits: Semaphore,
}

#[async_trait]
impl Append for Gated {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        if batch.log() == Log::Keys {
            self.arrived.notify_one();
            self.permits.acquire().await.expect("never closed").forget();
        }
        self.log.append_all(batch).await
    }
}

#[tokio::test]
async fn what_is_destroyed_while_a_rotation_runs_is_not_final_when_it_ends() {
    let world = World::new().await;
    let (log, arrived, permits) = (world.log.clone(), Notify::new(), Semaphore::new(1));
    let gated = Arc::new(Gated { log, arrived, permits });
    let process = world.process_with(gated.clone()).await;
    world.sign_in(&process, "a@example.org").await;
    gated.arrived.notified().await;
    let destroyed = async {
        gated.arrived.notified().await;
        let destroyed = DataKeysDestroyed { count: 1 };
        world
            .append(&commands_signer(), Actor::System(Role::Commands), SubjectKind::Erasure, destroyed)
            .await;
        gated.permits.add_permits(1);
    };
    let (rotated, ()) = tokio::join!(process.service.rotate_master_key(), destroyed);
    rotated.expect("memory");
    assert!(process.view(&world, |directory| directory.erasures.are_open()).await);
    gated.permits.add_permits(1);
    process.service.rotate_master_key().await.expect("memory");
    assert!(!process.view(&world, |directory| directory.erasures.are_open()).await);
}

#[tokio::test]
async fn a_key_that_another_process_destroyed_is_held_until_the_next_sweep_at_most() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    assert!(can_open(&world, &process, account).await);
    world.log.purge_all(Log::Keys, Filter::all()).await.expect("memory");
    assert!(can_open(&world, &process, account).await, "it is in this process's memory");
    process.service.sweep_keys().await.expect("memory");
    assert!(!can_open(&world, &process, account).await);
}
