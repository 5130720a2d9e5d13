//! What the operator's commands say of a log from which an account was erased.

use omnirun_events::Sequence;
use omnirun_events::envelope::Role;
use omnirun_events::erasure::{Cause, ChainStart, Positions, RecordsErased};
use omnirun_events::id::ReceiptId;
use omnirun_events::log::{Erase as _, Stored, read_to_end};
use omnirun_events::sandbox::{FailReason, SandboxFailed};
use omnirun_events::subject::{Filter, Log, SubjectKind};
use omnirun_ops::Exit;

use crate::world::*;

/// The account's records of a log.
async fn records(world: &World, log: Log) -> Vec<Stored> {
    let all = read_to_end(&world.log, log, Filter::all(), Sequence::NONE).await.expect("memory is up");
    all.into_iter().filter(|stored| stored.subject.kind().account() == Some(account())).collect()
}

async fn bury(world: &World) {
    let cause = Cause::Account { receipt: ReceiptId::from_bytes([1; 16]) };
    let positions: Positions =
        records(world, Log::Events).await.iter().map(|stored| stored.sequence).collect();
    let last = records(world, Log::Events).await.pop().expect("it has records");
    let head = omnirun_events::codec::decode(&last.record).expect("it was encoded").head(last.sequence);
    let start = ChainStart(head.version, head.hash);
    for tombstone in RecordsErased::split(cause, Log::Events, &positions, &[start]) {
        world.append_as(Role::Commands, SubjectKind::Erasure, vec![tombstone.into()]).await;
    }
}

async fn purge(world: &World) {
    for log in Log::kept() {
        for stored in records(world, log).await {
            world.log.purge_through(&stored.subject, stored.sequence).await.expect("memory is up");
        }
    }
}

#[tokio::test]
async fn verify_takes_a_hole_that_a_tombstone_names_and_no_other() {
    let world = World::with_history().await;
    bury(&world).await;
    assert_eq!(world.verify().await.0, Exit::Good, "before anything is removed");
    purge(&world).await;
    let (exit, out, _) = world.verify().await;
    assert_eq!(exit, Exit::Good, "{out}");
    assert!(out.contains("EVENTS: through 7, believed 2, ignored 0, removed 5\n"), "{out}");

    let world = World::with_history().await;
    purge(&world).await;
    let (exit, out, _) = world.verify().await;
    assert_eq!(exit, Exit::Bad);
    assert!(out.contains("first bad position EVENTS 2:") && out.contains("no tombstone says why"), "{out}");
}

#[tokio::test]
async fn replay_of_a_log_with_holes_says_same() {
    let world = World::with_history().await;
    let running = world.start().await;
    bury(&world).await;
    purge(&world).await;
    for view in ["directory", "usage"] {
        let (exit, out, errors) = world.ops(&["replay", view]).await;
        assert_eq!(exit, Exit::Good, "{out}{errors}");
    }
    running.stop().await;
}

#[tokio::test]
async fn verify_counts_what_came_too_late_and_finds_nothing_wrong_with_it() {
    let world = World::with_history().await;
    bury(&world).await;
    let failed = SandboxFailed { reason: FailReason::BootFailed };
    let subject = SubjectKind::Sandbox(account(), sandbox(1));
    world.append_as(Role::Worker, subject, vec![failed.clone().into()]).await;
    let (exit, out, _) = world.verify().await;
    assert_eq!((exit, out.contains("late for an erased account 1")), (Exit::Good, true), "{out}");
    purge(&world).await;
    let (exit, out, _) = world.verify().await;
    assert_eq!(exit, Exit::Bad, "the late record went without a tombstone: {out}");
}

#[tokio::test]
async fn a_tombstone_of_a_stranger_is_not_believed() {
    let world = World::with_history().await;
    bury(&world).await;
    let tombstone = Sequence(7);
    world.tampered(Log::Events, tombstone, |record| record[record.len() / 2] ^= 1);
    let (exit, out, _) = world.verify().await;
    assert_eq!(exit, Exit::Bad);
    assert!(out.contains("first bad position EVENTS 7:"), "{out}");
}
