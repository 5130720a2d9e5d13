//! Keys on disk: made once, refused when others can reach them, finished after a crash.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use omnirun_events::envelope::Role;
use omnirun_events::log::Read as _;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::subject::Log;
use omnirun_events::{Sequence, Timestamp};
use omnirun_ops::identity::{self, EnrolError, IdentityError};
use tempfile::TempDir;

fn made() -> TempDir {
    let data = TempDir::new().expect("a temporary directory");
    identity::create(data.path()).expect("a new directory");
    data
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

#[test]
fn every_key_file_is_its_owners_alone() {
    let data = made();
    let keys = data.path().join("keys");
    assert_eq!(mode(&keys), 0o700);
    let files: Vec<_> =
        fs::read_dir(&keys).expect("it is ours").map(|entry| entry.expect("there").path()).collect();
    assert_eq!(files.len(), 6);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn two_installations_share_no_key() {
    let (a, b) = (made(), made());
    let (a, b) = (identity::load(a.path()).expect("whole"), identity::load(b.path()).expect("whole"));
    assert_ne!(a.root, b.root);
    assert_ne!(a.commands.id(), b.commands.id());
    assert_ne!(a.worker.0, b.worker.0);
    assert_ne!(a.gateway_secret.expose(), b.gateway_secret.expose());
}

#[test]
fn keys_that_others_can_reach_are_refused_with_the_command_that_mends_it() {
    for name in ["commands.key", "gateway.key", "worker.key", "worker.host", "gateway.secret", "root.key"] {
        let data = made();
        let file = data.path().join("keys").join(name);
        set_mode(&file, 0o640);
        let error = identity::load(data.path()).expect_err("the group can read it").to_string();
        assert!(error.contains(&format!("chmod 600 {}", file.display())), "{error}");
        set_mode(&file, 0o600);
        identity::load(data.path()).expect("it is mended");
    }
    let data = made();
    set_mode(&data.path().join("keys"), 0o755);
    assert!(matches!(identity::load(data.path()), Err(IdentityError::Mode { .. })));
}

#[test]
fn a_cut_key_file_is_refused() {
    let data = made();
    let file = data.path().join("keys/commands.key");
    let text = fs::read_to_string(&file).expect("it is ours");
    fs::write(&file, &text[..40]).expect("it is ours");
    assert!(matches!(identity::load(data.path()), Err(IdentityError::Malformed { .. })));
}

#[test]
fn another_pinned_fingerprint_than_the_root_keys_is_refused() {
    let (data, other) = (made(), made());
    fs::copy(other.path().join("root.pub"), data.path().join("root.pub")).expect("both are ours");
    assert!(matches!(identity::load(data.path()), Err(IdentityError::ForeignRoot { .. })));
}

#[test]
fn a_call_that_was_interrupted_before_the_pin_starts_again() {
    let data = TempDir::new().expect("a temporary directory");
    let begun = identity::create_with(data.path(), |_| Err(std::io::Error::other("power cut")));
    assert!(matches!(begun, Err(IdentityError::Write { .. })));
    assert!(!data.path().join("root.pub").exists() && !identity::exists(data.path()));
    let root = identity::create(data.path()).expect("it starts again");
    assert_eq!(identity::load(data.path()).expect("whole").root, root);
}

#[test]
fn a_call_that_was_interrupted_after_the_pin_is_finished() {
    let data = made();
    let root = identity::pinned_root(data.path()).expect("pinned");
    fs::rename(data.path().join("keys"), data.path().join("keys.new")).expect("both are ours");
    assert_eq!(identity::create(data.path()).expect("it is finished"), root);
    assert_eq!(identity::load(data.path()).expect("whole").root, root);
}

#[test]
fn a_pin_without_keys_is_never_overwritten() {
    let data = made();
    fs::remove_dir_all(data.path().join("keys")).expect("it is ours");
    assert!(matches!(identity::create(data.path()), Err(IdentityError::Exists { .. })));
}

#[test]
fn no_key_is_printed() {
    let data = made();
    let printed = format!("{:?}", identity::load(data.path()).expect("whole"));
    for entry in fs::read_dir(data.path().join("keys")).expect("it is ours") {
        let path = entry.expect("there").path();
        let text = fs::read_to_string(&path).expect("it is ours");
        let is_public = path.ends_with("worker.host");
        assert_eq!(printed.contains(text.trim()), is_public, "{}", path.display());
    }
}

#[tokio::test]
async fn enrolling_twice_appends_once() {
    let data = made();
    let identity = identity::load(data.path()).expect("whole");
    let log = MemoryLog::default();
    let first = identity::enrol(&log, &log, &identity, Timestamp(1)).await.expect("memory is up");
    let second = identity::enrol(&log, &log, &identity, Timestamp(2)).await.expect("memory is up");
    assert_eq!((first.added, second.added), (3, 0));
    assert_eq!(first.position, second.position);
    assert_eq!(log.head(Log::Events).await.expect("memory is up"), Sequence(1));
}

#[tokio::test]
async fn the_root_key_may_be_kept_elsewhere_once_the_others_are_enrolled() {
    let data = made();
    let root_key = data.path().join("keys/root.key");
    let kept = fs::read(&root_key).expect("it is ours");
    fs::remove_file(&root_key).expect("it is ours");
    let log = MemoryLog::default();
    let identity = identity::load(data.path()).expect("the others are there");
    let away = identity::enrol(&log, &log, &identity, Timestamp(1)).await;
    assert!(matches!(away, Err(EnrolError::RootKeyAway { role: Role::Commands })));
    fs::write(&root_key, kept).expect("it is ours");
    set_mode(&root_key, 0o600);
    let identity = identity::load(data.path()).expect("whole");
    identity::enrol(&log, &log, &identity, Timestamp(1)).await.expect("memory is up");
    fs::remove_file(&root_key).expect("it is ours");
    let identity = identity::load(data.path()).expect("the others are there");
    let again = identity::enrol(&log, &log, &identity, Timestamp(2)).await.expect("nothing is missing");
    assert_eq!(again.added, 0);
}

#[tokio::test]
async fn a_retired_key_is_believed_no_more_and_a_start_with_it_is_refused() {
    let data = made();
    let identity = identity::load(data.path()).expect("whole");
    let log = MemoryLog::default();
    identity::enrol(&log, &log, &identity, Timestamp(1)).await.expect("memory is up");
    let key = identity.worker.1.id();
    let first = identity::retire(&log, &log, &identity, key, Timestamp(2)).await.expect("memory is up");
    let again = identity::retire(&log, &log, &identity, key, Timestamp(3)).await.expect("memory is up");
    assert_eq!((first.added, again.added, first.position), (1, 0, again.position));
    let refused = identity::enrol(&log, &log, &identity, Timestamp(4)).await;
    assert!(matches!(refused, Err(EnrolError::Retired { key: retired }) if retired == key));
    let stranger = identity::load(made().path()).expect("whole").commands.id();
    for key in [stranger, identity.root_signer().expect("it is here").id()] {
        let unknown = identity::retire(&log, &log, &identity, key, Timestamp(5)).await;
        assert!(matches!(unknown, Err(EnrolError::Unknown { .. })), "{unknown:?}");
    }
    assert_eq!(log.head(Log::Events).await.expect("memory is up"), Sequence(2));
}

#[tokio::test]
async fn the_log_of_another_installation_is_refused() {
    let (ours, theirs) = (made(), made());
    let log = MemoryLog::default();
    let theirs = identity::load(theirs.path()).expect("whole");
    identity::enrol(&log, &log, &theirs, Timestamp(1)).await.expect("memory is up");
    let ours = identity::load(ours.path()).expect("whole");
    let refused = identity::enrol(&log, &log, &ours, Timestamp(1)).await;
    assert!(matches!(refused, Err(EnrolError::Fault(_))));
}
