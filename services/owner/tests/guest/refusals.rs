//! What cannot be begun: said with the guest's name, the path and the remedy, and nothing is left of it.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use omnirun_vmm_api::{Purpose, owner::OwnerSpec};

use crate::support;

/// A store that is the real one but for a file in the place of the snapshots' directory, where nothing can be made.
fn store_without_room(home: &Path) -> PathBuf {
    let (real, store) = (support::store(), home.join("store"));
    fs::create_dir_all(store.join("templates/base")).expect("writable");
    for name in ["kernel", "initramfs.cpio", "templates/base/root.sqfs", "templates/base/template.json"] {
        symlink(real.join(name), store.join(name)).expect("writable");
    }
    fs::write(store.join("templates/base/snapshot"), "").expect("writable");
    store
}

/// What an owner says that ends at once.
fn said(home: &Path, change: impl FnOnce(&mut OwnerSpec)) -> String {
    let mut spec = support::spec(&home.join("vm"), "base");
    change(&mut spec);
    let mut process = Command::new(env!("CARGO_BIN_EXE_omnirun-owner"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the owner's program was built with the tests");
    let text = serde_json::to_vec(&spec).expect("a spec is JSON");
    process.stdin.take().expect("it is a pipe").write_all(&text).expect("the owner reads it");
    let ended = process.wait_with_output().expect("it is our child");
    let said = String::from_utf8(ended.stderr).expect("it is text");
    assert_eq!((ended.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    said
}

#[test]
fn a_store_that_cannot_be_written_to_is_named_and_nothing_is_left() {
    let home = tempfile::tempdir().expect("a directory for the test");
    let store = store_without_room(home.path());
    let said = said(home.path(), |spec| {
        spec.store.clone_from(&store);
        spec.purpose = Purpose::Snapshot;
    });
    let path = store.join("templates/base/snapshot");
    let expected = format!(
        "omnirun vmm: test: cannot make {} in the template store: let this user write",
        path.display()
    );
    assert!(said.starts_with(&expected), "{said}");
    assert!(!home.path().join("vm").exists(), "no state directory was made");
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named_and_no_half_snapshot_is_left() {
    let home = tempfile::tempdir().expect("a directory for the test");
    let store = store_without_room(home.path());
    let snapshots = store.join("templates/base/snapshot");
    fs::remove_file(&snapshots).expect("it is ours");
    let place = home.path().join("file/vm");
    fs::write(home.path().join("file"), "").expect("writable");
    let said = said(home.path(), |spec| {
        spec.store.clone_from(&store);
        spec.purpose = Purpose::Snapshot;
        spec.state_dir.clone_from(&place);
    });
    let expected =
        format!("omnirun vmm: test: cannot use the state directory {}: let this user", place.display());
    assert!(said.starts_with(&expected), "{said}");
    assert_eq!(fs::read_dir(snapshots).expect("it was made").count(), 0);
}
