//! The operator's commands against a log in memory, directly and through the socket of a running process.

mod erased;
mod receipt;
mod statement;
mod world;

use omnirun_events::envelope::Role;
use omnirun_events::log::{Read as _, Tail};
use omnirun_events::sandbox::SandboxClaimed;
use omnirun_events::subject::{Filter, Log, Slot, SubjectKind};
use omnirun_events::{Sequence, unit::Millis};
use omnirun_ops::socket::SocketRead;
use omnirun_ops::{Exit, identity};
use omnirun_projections::Directory;
use omnirun_runner::{Source, follow};
use world::*;

#[tokio::test]
async fn init_makes_keys_that_are_enrolled_and_pinned() {
    let world = World::new();
    let (exit, out, _) = world.ops(&["init"]).await;
    assert_eq!(exit, Exit::Good);
    let identity = identity::load(world.data()).expect("they were just made");
    assert!(out.contains(&identity.root.to_string()), "{out}");
    let (exit, out, _) = world.ops(&["verify", "--root-key", &identity.root.to_string()]).await;
    assert_eq!((exit, out.contains("EVENTS: through 1, believed 1, ignored 0")), (Exit::Good, true), "{out}");
}

#[tokio::test]
async fn init_a_second_time_changes_nothing_and_fails() {
    let world = World::new();
    world.ops(&["init"]).await;
    let before = identity::pinned_root(world.data()).expect("pinned");
    let (exit, _, errors) = world.ops(&["init"]).await;
    assert_eq!(exit, Exit::Failed);
    assert!(errors.contains("never overwritten"), "{errors}");
    assert_eq!(identity::pinned_root(world.data()).expect("pinned"), before);
    assert_eq!(world.log.head(Log::Events).await.expect("up"), Sequence(1));
}

#[tokio::test]
async fn init_enrols_keys_that_were_made_before_a_crash() {
    let world = World::new();
    let root = identity::create(world.data()).expect("a new directory");
    let (exit, out, _) = world.ops(&["init"]).await;
    assert_eq!((exit, out.contains(&root.to_string())), (Exit::Good, true), "{out}");
    assert_eq!(world.log.head(Log::Events).await.expect("up"), Sequence(1));
}

#[tokio::test]
async fn show_keeps_sealed_fields_sealed_and_hides_verifiers() {
    let world = World::with_history().await;
    let (exit, out, _) = world.ops(&["show", "2"]).await;
    assert_eq!(exit, Exit::Good);
    assert!(out.contains("\"sealed\": \"account\"") && out.contains("account.opened"), "{out}");
    let (_, out, _) = world.ops(&["show", "EVENTS:3"]).await;
    assert!(out.contains("\"verifier\": \"[32 bytes]\""), "{out}");
    let (exit, _, errors) = world.ops(&["show", "99"]).await;
    assert_eq!((exit, errors.contains("EVENTS ends at")), (Exit::Failed, true), "{errors}");
}

#[tokio::test]
async fn tail_prints_a_line_for_each_stored_record_that_the_filter_takes() {
    let world = World::with_history().await;
    let (exit, out, _) = world.ops(&["tail"]).await;
    assert_eq!(exit, Exit::Good);
    assert!(out.starts_with("list: stored"), "{out}");
    assert_eq!(out.lines().count(), 1 + world.events().await.len());
    let (_, out, _) = world.ops(&["tail", "--filter", "sys.>", "--from", "1", "--json"]).await;
    assert_eq!(out.lines().count(), 1, "{out}");
}

#[tokio::test]
async fn verify_believes_an_honest_history() {
    let world = World::with_history().await;
    let (exit, out, errors) = world.verify().await;
    assert_eq!(exit, Exit::Good, "{out}{errors}");
    assert!(out.contains("good: every record is believed") && out.contains("USAGE_00: through 1"), "{out}");
}

#[tokio::test]
async fn verify_names_the_first_bad_position() {
    for position in 1..=6 {
        let world = World::with_history().await;
        world.tampered(Log::Events, Sequence(position), |record| record[record.len() / 2] ^= 1);
        let (exit, out, _) = world.verify().await;
        assert_eq!(exit, Exit::Bad, "{out}");
        assert!(out.contains(&format!("first bad position EVENTS {position}:")), "{out}");
    }
}

#[tokio::test]
async fn verify_notices_that_the_end_of_the_log_is_missing() {
    let world = World::with_history().await;
    let last = world.log.head(Log::Events).await.expect("up");
    world.removed(Log::Events, last);
    let (exit, out, _) = world.verify().await;
    assert_eq!(exit, Exit::Bad);
    assert!(out.contains(&format!("first bad position EVENTS {last}:")), "{out}");
}

#[tokio::test]
async fn verify_reports_ignored_records_and_fails() {
    let world = World::with_history().await;
    let subject = SubjectKind::Sandbox(account(), sandbox(9));
    let host = world.identity().worker.0;
    world.append_as(Role::Commands, subject, vec![SandboxClaimed { host }.into()]).await;
    let (exit, out, _) = world.verify().await;
    assert_eq!(exit, Exit::Bad);
    assert!(out.contains("ignored: EVENTS 7") && out.contains("Role(Commands)"), "{out}");
}

#[tokio::test]
async fn verify_under_another_root_key_believes_nothing() {
    let world = World::with_history().await;
    let other = World::new();
    let root = identity::create(other.data()).expect("a new directory").to_string();
    let (exit, out, _) = world.ops(&["verify", "--root-key", &root]).await;
    assert_eq!((exit, out.contains("first bad position EVENTS 1:")), (Exit::Bad, true), "{out}");
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_neither_good_nor_bad() {
    let world = World::with_history().await;
    world.unreachable();
    let (exit, _, errors) = world.verify().await;
    assert_eq!(exit, Exit::Unreadable);
    assert!(errors.contains("cannot reach the store"), "{errors}");
}

#[tokio::test]
async fn replay_agrees_with_the_live_read_model_until_a_row_is_flipped() {
    let world = World::with_history().await;
    let running = world.start().await;
    for view in ["directory", "usage"] {
        let (exit, out, errors) = world.ops(&["replay", view]).await;
        assert_eq!(
            (exit, out.contains("memory of the running process")),
            (Exit::Good, true),
            "{out}{errors}"
        );
    }
    running.directory.live().tamper(|directory| *directory = Directory::default());
    let (exit, out, _) = world.ops(&["replay", "directory"]).await;
    assert_eq!((exit, out.contains("DIFFERENT")), (Exit::Bad, true), "{out}");
    running.stop().await;
}

#[tokio::test]
async fn replay_without_a_running_process_compares_with_the_checkpoint() {
    let world = World::with_history().await;
    let root = world.identity().root;
    let follower = follow::<Directory>(world.reader(), root, Source::Events, Some(world.checkpoints())).await;
    let follower = follower.expect("the log is whole");
    world.caught_up(&follower.live()).await;
    follower.live().tamper(|directory| *directory = Directory::default());
    follower.stop().await;
    let (exit, out, errors) = world.ops(&["replay", "directory"]).await;
    assert_eq!((exit, out.contains("stored checkpoint")), (Exit::Bad, true), "{out}{errors}");
}

#[tokio::test]
async fn every_command_reads_through_the_socket_while_a_process_runs() {
    let world = World::with_history().await;
    let direct = (world.verify().await.0, world.ops(&["tail"]).await.1, world.ops(&["show", "4"]).await.1);
    let running = world.start().await;
    world.store_is_taken();
    let socket = (world.verify().await.0, world.ops(&["tail"]).await.1, world.ops(&["show", "4"]).await.1);
    assert_eq!(direct, socket);
    running.stop().await;
    assert_eq!(world.ops(&["tail"]).await.0, Exit::Failed, "nobody answers and the store is taken");
}

#[tokio::test]
async fn a_cursor_over_the_socket_waits_and_loses_nothing_when_it_is_dropped() {
    let world = World::with_history().await;
    let running = world.start().await;
    let reader = SocketRead::connect(world.data()).await.expect("it runs");
    let mut cursor = reader.read(Log::Events, Filter::all(), Sequence::NONE).await.expect("it answers");
    let page = cursor.next(3, Tail::Return).await.expect("it answers");
    assert_eq!((page.records.len(), page.through), (3, Sequence(3)));
    let page = cursor.next(100, Tail::Return).await.expect("it answers");
    assert_eq!(page.through, Sequence(6));
    let waiting = tokio::time::timeout(Millis(50).as_duration(), cursor.next(1, Tail::Wait)).await;
    assert!(waiting.is_err(), "there is no seventh record");
    world.append_token(7).await;
    let page = within(cursor.next(1, Tail::Wait)).await.expect("it answers");
    assert_eq!(page.records[0].sequence, Sequence(7));
    let slot = Slot::from_index(0).expect("there are fourteen");
    assert_eq!(reader.head(Log::Usage(slot)).await.expect("it answers"), Sequence(1));
    let last = reader.last(&page.records[0].subject).await.expect("it answers");
    assert_eq!(last.as_ref(), page.records.first());
    running.stop().await;
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_with_its_server() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::with_history().await;
    let running = world.start().await;
    let path = world.data().join("ops.sock");
    let mode = std::fs::metadata(&path).expect("it runs").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    running.stop().await;
    assert!(!path.exists());
}
