//! Epochs come, go, and are lost: what the file holds after each.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use super::*;

fn fixed(byte: u8) -> Random {
    std::sync::Arc::new(move |buffer| buffer.fill(byte))
}

fn in_directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("master.key");
    (directory, path)
}

#[test]
fn a_created_key_loads_again_and_is_never_replaced() {
    let (_directory, path) = in_directory();
    let created = MasterKey::create_with(&path, &fixed(7)).expect("created");
    let loaded = MasterKey::load(&path).expect("loaded");
    assert_eq!((loaded.epoch(), loaded.codes(1)), (1, created.codes(1)));
    assert_eq!(loaded.codes(2), None);
    assert!(matches!(MasterKey::create(&path), Err(MasterKeyError::Exists { .. })));
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_key_of_any_mode_but_600_is_refused() {
    let (_directory, path) = in_directory();
    MasterKey::create(&path).expect("created");
    for mode in [0o640, 0o604, 0o660, 0o400, 0o700, 0o4600] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        let error = MasterKey::load(&path).expect_err("not as it was made");
        assert!(error.to_string().contains("make it 600"), "{mode:o}: {error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
    MasterKey::load(&path).expect("as it was made");
}

#[test]
fn a_key_of_another_user_is_refused() {
    let (_directory, path) = in_directory();
    MasterKey::create(&path).expect("created");
    let metadata = fs::metadata(&path).expect("there");
    is_ours(&path, &metadata, metadata.uid()).expect("its owner's");
    let error = is_ours(&path, &metadata, metadata.uid() + 1).expect_err("somebody else's");
    assert!(matches!(error, MasterKeyError::Owner { .. }), "{error}");
}

#[tokio::test]
async fn a_key_that_others_may_read_since_it_was_loaded_is_refused_as_well() {
    let (_directory, path) = in_directory();
    let key = MasterKey::create(&path).expect("created");
    drop(key.turn().await.expect("as it was made"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
    assert!(matches!(key.turn().await.err(), Some(MasterKeyError::Mode { mode: 0o644, .. })));
    assert!(matches!(key.begin_rotation(&fixed(1)).await, Err(MasterKeyError::Mode { .. })));
}

/// One thread: whoever blocked it would keep everybody from being answered.
#[tokio::test]
async fn waiting_for_another_process_keeps_nobody_else_waiting() {
    let (_directory, path) = in_directory();
    let key = MasterKey::create(&path).expect("created");
    let other = OpenOptions::new().read(true).write(true).open(&path).expect("ours");
    other.lock().expect("nobody has it");
    let mut turn = std::pin::pin!(key.turn());
    for _ in 0..100 {
        let is_ready =
            std::future::poll_fn(|context| std::task::Poll::Ready(turn.as_mut().poll(context).is_ready()));
        assert!(!is_ready.await, "another process has it");
        tokio::task::yield_now().await;
    }
    other.unlock().expect("ours");
    turn.await.expect("its turn has come");
}

#[tokio::test]
async fn a_torn_slot_leaves_the_other_one_and_two_torn_slots_are_damage() {
    let (_directory, path) = in_directory();
    let key = MasterKey::create_with(&path, &fixed(1)).expect("created");
    key.begin_rotation(&fixed(2)).await.expect("room");
    let both = MasterKey::load(&path).expect("two slots");
    assert!(both.epoch() == 2 && both.wrapping(1).is_some() && both.wrapping(3).is_none());
    let file = OpenOptions::new().write(true).open(&path).expect("ours");
    file.write_all_at(b"x", 512 + 20).expect("room");
    assert_eq!(MasterKey::load(&path).expect("one slot").epoch(), 1);
    file.write_all_at(b"x", 20).expect("room");
    assert!(matches!(MasterKey::load(&path), Err(MasterKeyError::Damaged { .. })));
}

#[tokio::test]
async fn after_a_rotation_the_old_key_is_not_in_the_file_any_more() {
    let (_directory, path) = in_directory();
    let key = MasterKey::create_with(&path, &fixed(0xa1)).expect("created");
    for (number, byte) in [(2, 0xa2), (3, 0xa3), (4, 0xa4)] {
        assert_eq!(key.begin_rotation(&fixed(byte)).await.expect("room"), Begun::Now(number));
        assert!(key.is_rotating() && key.wrapping(number - 1).is_some());
        key.end_rotation(number).await.expect("ours");
        assert!(!key.is_rotating() && key.wrapping(number - 1).is_none());
        assert!(key.codes(number - 1).is_some() && key.codes(number - 2).is_none());
        let bytes = fs::read(&path).expect("ours");
        assert!(bytes.len() == 1024 && !bytes.contains(&(byte - 1)) && bytes.contains(&byte));
        assert_eq!(MasterKey::load(&path).expect("one slot").epoch(), number);
    }
}

#[tokio::test]
async fn a_rotation_that_was_broken_off_goes_on_with_the_epoch_that_it_had_made() {
    let (_directory, path) = in_directory();
    let key = MasterKey::create_with(&path, &fixed(1)).expect("created");
    key.begin_rotation(&fixed(2)).await.expect("room");
    let wrapping = |key: &MasterKey| key.wrapping(2).map(|key| format!("{:?}", seal(&key)));
    let again = MasterKey::load(&path).expect("two slots");
    assert_eq!(again.begin_rotation(&fixed(3)).await.expect("begun before"), Begun::Before(2));
    assert_eq!(wrapping(&again), wrapping(&key));
    again.end_rotation(2).await.expect("ours");
    // The one that began it learns of the end when it next wraps a key.
    drop(key.turn().await.expect("ours"));
    assert!(!key.is_rotating() && key.epoch() == 2);
}

/// The other process still walks its list when the third epoch begins.
#[tokio::test]
async fn whoever_ends_a_rotation_that_others_have_ended_leaves_the_next_one_alone() {
    let (_directory, path) = in_directory();
    let key = MasterKey::create_with(&path, &fixed(1)).expect("created");
    let other = MasterKey::load(&path).expect("one slot");
    assert_eq!(key.begin_rotation(&fixed(2)).await.expect("room"), Begun::Now(2));
    assert_eq!(other.begin_rotation(&fixed(3)).await.expect("begun before"), Begun::Before(2));
    key.end_rotation(2).await.expect("ours");
    assert_eq!(key.begin_rotation(&fixed(3)).await.expect("room"), Begun::Now(3));
    other.end_rotation(2).await.expect("over");
    let both = MasterKey::load(&path).expect("two slots");
    assert!(both.epoch() == 3 && both.wrapping(2).is_some(), "every key is still wrapped under it");
    key.end_rotation(3).await.expect("ours");
    assert!(!MasterKey::load(&path).expect("one slot").is_rotating());
}

fn seal(key: &DataKey) -> Vec<u8> {
    let account = omnirun_events::AccountId::from_bytes([0; 16]);
    let subject = omnirun_events::SubjectKind::AccountKey(account);
    key.seal(omnirun_events::sealing::DataKeyLabel::Account, [0; 24], &subject.into(), "x", b"x").text
}

#[test]
fn a_key_does_not_print() {
    let key = MasterKey::ephemeral(&fixed(0x41));
    assert_eq!(format!("{key:?}"), "MasterKey(epoch 1, [redacted])");
}
