//! Following, checkpoints and rebuilding: each rule of the runner, on a log in memory.

mod erasing;
mod world;

use std::collections::BTreeMap;
use std::fs;

use omnirun_events::envelope::Role;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Read as _, Sequence};
use omnirun_events::subject::Log;
use omnirun_events::verify::Depth;
use omnirun_projections::{Directory, Fold as _, Usage};
use omnirun_runner::{NotReached, RebuildError, Source, StartError, Status, follow, rebuild};
use world::*;

async fn rebuilt_directory(world: &World) -> Digest {
    let all = BTreeMap::new();
    let rebuilt = rebuild::<Directory>(&world.log, &root(), Source::Events, &all, Depth::Signatures).await;
    rebuilt.expect("the log is whole").state.digest()
}

#[tokio::test]
async fn following_arrives_at_what_a_rebuild_makes() {
    let world = World::new().await;
    let follower = world.follow_directory(None).await;
    for n in 1..40 {
        let sequence = world.open_account(n).await;
        world.open_account(n + 100).await;
        follower.live().reached(sequence, LIMIT).await.expect("it follows");
    }
    world.caught_up(&follower.live()).await;
    assert_eq!(follower.live().snapshot().digest, rebuilt_directory(&world).await);
    assert_ne!(follower.live().snapshot().digest, Directory::default().digest());
}

#[tokio::test]
async fn what_was_written_is_read_once_its_position_is_reached() {
    let world = World::new().await;
    let follower = world.follow_directory(None).await;
    let sequence = world.open_account(1).await;
    follower.live().reached(sequence, LIMIT).await.expect("it follows");
    assert!(follower.live().view(|directory, _| directory.accounts.get(account(1)).is_some()));
    let beyond = follower.live().reached(Sequence(sequence.0 + 1), SHORT).await;
    assert_eq!(beyond, Err(NotReached::Behind));
}

#[tokio::test]
async fn a_restart_from_a_checkpoint_resumes_and_equals_a_rebuild() {
    let world = World::new().await;
    world.open_account(1).await;
    let follower = world.follow_directory(Some(world.checkpoints())).await;
    world.caught_up(&follower.live()).await;
    follower.stop().await;
    world.open_account(2).await;
    let after = world.read_from_here();
    let follower = world.follow_directory(Some(world.checkpoints())).await;
    world.caught_up(&follower.live()).await;
    assert_eq!(world.records_read_since(after), 1, "only what came after the checkpoint is read again");
    assert_eq!(follower.live().snapshot().digest, rebuilt_directory(&world).await);
}

#[tokio::test]
async fn a_checkpoint_of_another_version_or_root_or_that_is_cut_is_absent() {
    let world = World::new().await;
    world.open_account(1).await;
    let follower = world.follow_directory(Some(world.checkpoints())).await;
    world.caught_up(&follower.live()).await;
    follower.stop().await;
    let path = world.checkpoint_file();
    let good = fs::read(&path).expect("it was written");
    // The version is the field after its name; the state stays readable.
    let mut other_version = good.clone();
    let name = good.windows(8).position(|bytes| bytes == b"\xa7version").expect("named fields");
    other_version[name + 8] += 1;
    let mut other_root = good.clone();
    let key = root().0;
    let at = good.windows(32).position(|bytes| bytes == key).expect("it holds the root key");
    other_root[at] ^= 1;
    for (case, bytes) in
        [("version", other_version), ("root", other_root), ("cut", good[..good.len() - 1].to_vec())]
    {
        fs::write(&path, bytes).expect("it is ours");
        let after = world.read_from_here();
        let follower = world.follow_directory(Some(world.checkpoints())).await;
        world.caught_up(&follower.live()).await;
        assert_eq!(world.records_read_since(after), 2, "{case}: it starts from the beginning");
        assert_eq!(follower.live().snapshot().digest, rebuilt_directory(&world).await, "{case}");
    }
}

#[tokio::test]
async fn a_log_that_is_shorter_than_the_checkpoint_is_refused() {
    let world = World::new().await;
    world.open_account(1).await;
    let follower = world.follow_directory(Some(world.checkpoints())).await;
    world.caught_up(&follower.live()).await;
    follower.stop().await;
    let shorter = World::new().await;
    let refused =
        follow::<Directory>(shorter.reader(), root(), Source::Events, Some(world.checkpoints())).await;
    match refused.err() {
        Some(StartError::LogIsShorter { head, seen, .. }) => {
            assert_eq!((head, seen), (Sequence(1), Sequence(2)));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_that_differs_from_what_the_checkpoint_saw_stops_the_view() {
    let world = World::new().await;
    world.request(1).await;
    let follower = world.follow_directory(Some(world.checkpoints())).await;
    world.caught_up(&follower.live()).await;
    follower.stop().await;
    let other = World::new().await;
    other.request(2).await;
    other.request(3).await;
    let follower =
        follow::<Directory>(other.reader(), root(), Source::Events, Some(world.checkpoints())).await;
    let follower = follower.expect("it is long enough");
    let stopped = follower.live().reached(Sequence(3), LIMIT).await;
    assert!(matches!(stopped, Err(NotReached::Stopped(_))), "{stopped:?}");
}

#[tokio::test]
async fn a_fault_stops_the_view_which_says_so_and_serves_what_it_has() {
    let world = World::new().await;
    let good = world.open_account(1).await;
    let follower = world.follow_directory(None).await;
    let live = follower.live();
    live.reached(good, LIMIT).await.expect("it follows");
    let bad = world.append_garbage(2).await;
    let stopped = live.reached(bad, LIMIT).await;
    assert!(matches!(&stopped, Err(NotReached::Stopped(why)) if why.contains("EVENTS 3")), "{stopped:?}");
    assert!(matches!(live.progress().status, Status::Stopped(_)));
    let later = world.open_account(3).await;
    assert!(matches!(live.reached(later, LIMIT).await, Err(NotReached::Stopped(_))));
    assert_eq!(live.reached(good, LIMIT).await, Ok(()));
    assert!(live.view(|directory, _| directory.accounts.get(account(1)).is_some()));
    let all = BTreeMap::new();
    let rebuilt = rebuild::<Directory>(&world.log, &root(), Source::Events, &all, Depth::Signatures).await;
    assert!(matches!(rebuilt, Err(RebuildError::Fault(fault)) if fault.at.sequence == bad));
}

#[tokio::test]
async fn rubbish_where_hosts_write_stops_nobody_and_changes_nothing() {
    let world = World::new().await;
    world.run_sandbox(1).await;
    world.meter(1, 1, 70_000).await;
    let follower = world.follow_usage(None).await;
    let directory = world.follow_directory(None).await;
    world.append_garbage_usage(1).await;
    world.append_garbage_sandbox(1).await;
    // Both hosts' subjects go on after it, and so do the read models, live and made anew.
    world.meter(1, 2, 90_000).await;
    let last = world.open_account(5).await;
    let live = follower.live();
    live.until(LIMIT, |usage| (metered(usage, 1) == 90_000).then_some(())).await.expect("it goes on");
    directory.live().reached(last, LIMIT).await.expect("it goes on");
    assert_eq!(directory.live().progress().status, Status::Following);
    assert_eq!(world.caught_up(&directory.live()).await, rebuilt_directory(&world).await);
}

#[tokio::test]
async fn a_stopped_usage_log_is_not_hidden_by_events_going_on() {
    let world = World::new().await;
    world.run_sandbox(1).await;
    let follower = follow::<Usage>(world.reader_of_damaged_usage(), root(), Source::EventsAndUsage, None);
    let follower = follower.await.expect("its end can be read");
    let live = follower.live();
    let mut changes = live.changes();
    let stopped = changes.wait_for(|progress| matches!(progress.status, Status::Stopped(_)));
    tokio::time::timeout(LIMIT, stopped).await.expect("it stops").expect("it lives");
    let sequence = world.open_account(5).await;
    let goes_on = changes.wait_for(|progress| progress.events >= sequence);
    tokio::time::timeout(LIMIT, goes_on).await.expect("EVENTS goes on").expect("it lives");
    assert!(matches!(live.progress().status, Status::Stopped(_)));
}

#[tokio::test]
async fn an_ignored_record_changes_nothing_and_the_view_goes_on() {
    let world = World::new().await;
    let follower = world.follow_directory(None).await;
    world.request(1).await;
    let before = world.caught_up(&follower.live()).await;
    world.claim_as(Role::Commands, 1).await;
    let after = world.caught_up(&follower.live()).await;
    assert_eq!(before, after);
    world.open_account(1).await;
    let later = world.caught_up(&follower.live()).await;
    assert_ne!(after, later);
    assert_eq!(follower.live().progress().status, Status::Following);
}

#[tokio::test]
async fn usage_waits_until_events_has_said_who_may_meter() {
    let world = World::new().await;
    world.run_sandbox(1).await;
    world.meter(1, 1, 70_000).await;
    let gate = world.hold_events();
    let follower = follow::<Usage>(gate.reader(), root(), Source::EventsAndUsage, None).await;
    let follower = follower.expect("the log is whole");
    let live = follower.live();
    let early = live.until(SHORT, |usage| (metered(usage, 1) > 0).then_some(())).await;
    assert_eq!(early, Err(NotReached::Behind), "the claim is not known yet");
    gate.open();
    live.until(LIMIT, |usage| (metered(usage, 1) == 70_000).then_some(())).await.expect("it is believed now");
}

#[tokio::test]
async fn usage_that_is_followed_equals_its_rebuild_at_the_same_positions() {
    let world = World::new().await;
    let follower = world.follow_usage(None).await;
    for n in 1..6 {
        world.run_sandbox(n).await;
        for period in 1..4 {
            world.meter(n, period, u64::from(period) * 60_000).await;
        }
    }
    let live = follower.live();
    live.until(LIMIT, |usage| (1..6).all(|n| metered(usage, n) == 180_000).then_some(()))
        .await
        .expect("soon");
    let snapshot = live.snapshot();
    let (root, through) = (root(), &snapshot.positions);
    let rebuilt = rebuild::<Usage>(&world.log, &root, Source::EventsAndUsage, through, Depth::Signatures);
    assert_eq!(rebuilt.await.expect("the log is whole").state.digest(), snapshot.digest);
}

#[tokio::test]
async fn a_rebuild_ends_at_the_named_position() {
    let world = World::new().await;
    world.open_account(1).await;
    let then = world.log.head(Log::Events).await.expect("memory is up");
    let digest = rebuilt_directory(&world).await;
    world.open_account(2).await;
    let through = BTreeMap::from([(Log::Events, then)]);
    let rebuilt =
        rebuild::<Directory>(&world.log, &root(), Source::Events, &through, Depth::Signatures).await;
    let rebuilt = rebuilt.expect("the log is whole");
    assert_eq!((rebuilt.state.digest(), rebuilt.records), (digest, then.0));
}
