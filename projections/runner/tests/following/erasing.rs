//! Erasure, as those who follow the log live through it: whoever saw the account, or a part of it, ends where a rebuild ends that never did.

use std::collections::BTreeMap;

use omnirun_events::keys::Digest;
use omnirun_events::log::Sequence;
use omnirun_events::subject::Log;
use omnirun_events::verify::Depth;
use omnirun_projections::{Directory, Fold, Usage};
use omnirun_runner::{Live, NotReached, Source, Status, follow, rebuild};

use crate::world::*;

async fn rebuilt<F: Fold>(world: &World, source: Source, through: &BTreeMap<Log, Sequence>) -> Digest {
    let rebuilt = rebuild::<F>(&world.log, &root(), source, through, Depth::Signatures).await;
    rebuilt.expect("the log is whole").state.digest()
}

/// A world in which account 1 ran and metered a sandbox, and so did account 2.
async fn two_accounts() -> World {
    let world = World::new().await;
    for n in [1, 2] {
        world.open_account(n).await;
        world.run_sandbox(n).await;
        world.meter(n, 1, 60_000).await;
    }
    world
}

async fn at_end(world: &World, live: &Live<Usage>) -> Digest {
    world.caught_up(live).await;
    live.snapshot().digest
}

#[tokio::test]
async fn at_every_step_of_an_erasure_the_live_view_is_what_a_rebuild_makes() {
    let world = two_accounts().await;
    let (directory, usage) = (world.follow_directory(None).await, world.follow_usage(None).await);
    let (directory, usage) = (directory.live(), usage.live());
    usage
        .until(LIMIT, |usage| (metered(usage, 1) + metered(usage, 2) == 120_000).then_some(()))
        .await
        .expect("soon");
    let all = BTreeMap::new();
    for step in ["close", "bury", "purge"] {
        match step {
            "close" => drop(world.close_account(1).await),
            "bury" => drop(world.bury_account(1).await),
            _ => world.purge_account(1).await,
        }
        let live = world.caught_up(&directory).await;
        assert_eq!(live, rebuilt::<Directory>(&world, Source::Events, &all).await, "{step}");
        let live = at_end(&world, &usage).await;
        assert_eq!(live, rebuilt::<Usage>(&world, Source::EventsAndUsage, &all).await, "{step}");
        assert!(directory.view(|directory, _| directory.accounts.get(account(1)).is_none()), "{step}");
        assert_eq!(usage.view(|usage, _| metered(usage, 1)), 0, "{step}");
    }
    assert_eq!(usage.view(|usage, _| metered(usage, 2)), 60_000, "another account's stays");
    let known = directory.view(|_, verifier| verifier.state().heads);
    assert!(known.iter().all(|(subject, _)| subject.kind().account() != Some(account(1))), "{known:?}");
}

/// A view whose checkpoint has the account, and that was away while it was closed and its records were removed, never reads that it closed.
#[tokio::test]
async fn a_view_that_was_away_during_the_erasure_keeps_nothing_of_it() {
    let world = two_accounts().await;
    let follower = world.follow_directory(Some(world.checkpoints())).await;
    world.caught_up(&follower.live()).await;
    follower.stop().await;
    world.close_account(1).await;
    world.bury_account(1).await;
    world.purge_account(1).await;
    let follower = world.follow_directory(Some(world.checkpoints())).await;
    let live = world.caught_up(&follower.live()).await;
    assert_eq!(live, rebuilt::<Directory>(&world, Source::Events, &BTreeMap::new()).await);
    follower.stop().await;
    let bytes = std::fs::read(world.checkpoint_file()).expect("it was written");
    for id in [account(1).to_string().into_bytes(), account(1).as_bytes().to_vec()] {
        assert!(!bytes.windows(id.len()).any(|window| window == id), "the checkpoint names the account");
    }
    let other = account(2).to_string().into_bytes();
    assert!(bytes.windows(other.len()).any(|window| window == other), "the search finds what is there");
}

/// The same for one that is running and has not come as far as the records that are removed under it.
#[tokio::test]
async fn records_that_are_removed_before_a_view_has_come_to_them_are_no_gap() {
    let world = World::new().await;
    world.open_account(1).await;
    world.close_account(1).await;
    let gate = world.hold_events();
    let follower = follow::<Directory>(gate.reader(), root(), Source::Events, None).await;
    let follower = follower.expect("nothing was erased yet");
    let live = follower.live();
    world.cut_account(1).await;
    let end = world.open_account(2).await;
    gate.open();
    live.reached(end, LIMIT).await.expect("the tombstone explains what is missing");
    world.caught_up(&live).await;
    assert_eq!(live.snapshot().digest, rebuilt::<Directory>(&world, Source::Events, &BTreeMap::new()).await);
}

#[tokio::test]
async fn records_that_are_removed_without_a_tombstone_are_a_gap() {
    let world = World::new().await;
    world.open_account(1).await;
    world.close_account(1).await;
    world.remove_first(1).await;
    let follower = world.follow_directory(None).await;
    let stopped = follower.live().reached(Sequence(3), LIMIT).await;
    assert!(matches!(stopped, Err(NotReached::Stopped(_))), "{stopped:?}");
}

#[tokio::test]
async fn a_late_meter_of_an_erased_account_changes_nothing_and_stops_nobody() {
    let world = two_accounts().await;
    let follower = world.follow_usage(None).await;
    let live = follower.live();
    world.close_account(1).await;
    world.bury_account(1).await;
    // Before the removal, as the next of its chain; after it, as the first of a new one.
    world.meter(1, 2, 90_000).await;
    world.purge_account(1).await;
    world.meter(1, 3, 95_000).await;
    world.meter(2, 2, 70_000).await;
    live.until(LIMIT, |usage| (metered(usage, 2) == 70_000).then_some(())).await.expect("it goes on");
    assert_eq!(live.progress().status, Status::Following);
    assert_eq!(live.view(|usage, _| metered(usage, 1)), 0);
    let end = at_end(&world, &live).await;
    assert_eq!(end, rebuilt::<Usage>(&world, Source::EventsAndUsage, &BTreeMap::new()).await);
}
