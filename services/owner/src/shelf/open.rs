//! Opening a snapshot that may have been tampered with: beneath the store whatever links say, of this user alone, and of
//! the key that its place promises. What is refused is named with its path, the reason and what to do.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use omnirun_vmm_api::{Bytes, MonitorError, SnapshotFiles};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use serde::Deserialize;

use super::{MEMORY, META, STATE};

/// The longest description that is read; ours have some hundred bytes.
const META_BYTES_MAX: u64 = 16 << 10;
/// The rights of a group and of others to write.
const OTHERS_WRITE: u32 = 0o022;
const REMEDY: &str = "remove the snapshot's directory, and the next one is made anew";

/// What is read of a snapshot's description.
#[derive(Debug, Deserialize)]
struct Meta {
    key: String,
    bytes: Bytes,
}

/// The snapshot in the directory `key` of `beneath`, seen from the store; none where there is no whole one.
pub fn open(store: &Path, beneath: &Path, key: &str) -> Result<Option<SnapshotFiles>, MonitorError> {
    let place = Place { store, directory: beneath.join(key) };
    // Whoever may write to the directory may replace the files.
    if place.open("", OFlags::DIRECTORY)?.is_none() {
        return Ok(None);
    }
    let Some(meta) = place.open(META, OFlags::empty())? else { return Ok(None) };
    let meta = place.read_meta(meta)?;
    if meta.key != key {
        return Err(place.refused(META, &format!("it is of another snapshot, {:?}", meta.key)));
    }
    let (memory, state) = (place.part(MEMORY)?, place.part(STATE)?);
    let length = memory.metadata().map_err(|error| place.refused(MEMORY, &error.to_string()))?.len();
    if length != meta.bytes.0 {
        return Err(place.refused(MEMORY, "it is cut short, or of another guest"));
    }
    Ok(Some(SnapshotFiles { memory, state, directory: place.path("") }))
}

/// One snapshot's directory.
struct Place<'a> {
    store: &'a Path,
    directory: PathBuf,
}

impl Place<'_> {
    fn path(&self, name: &str) -> PathBuf {
        let directory = self.store.join(&self.directory);
        if name.is_empty() { directory } else { directory.join(name) }
    }

    fn refused(&self, name: &str, reason: &str) -> MonitorError {
        MonitorError::BadFile { path: self.path(name), reason: format!("{reason}: {REMEDY}") }
    }

    /// Something in the directory, or itself; none where there is nothing of that name.
    fn open(&self, name: &str, flags: OFlags) -> Result<Option<File>, MonitorError> {
        let file = match self.open_beneath(name, flags) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => {
                return Err(
                    self.refused(name, "a symbolic link is on its path, and may lead out of the store")
                );
            }
            opened => opened.map_err(|error| self.refused(name, &error.to_string()))?,
        };
        let found = file.metadata().map_err(|error| self.refused(name, &error.to_string()))?;
        match why_not_ours(&found, flags) {
            Some(reason) => Err(self.refused(name, reason)),
            None => Ok(Some(file)),
        }
    }

    /// The store's own path is the operator's, and may have links.
    fn open_beneath(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let to_start = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let store = rustix::fs::openat(CWD, self.store, to_start, Mode::empty())?;
        // Not blocking: a pipe in a file's place is opened, and then refused.
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let path = if name.is_empty() { self.directory.clone() } else { self.directory.join(name) };
        Ok(openat2(store, path, flags, Mode::empty(), resolve)?.into())
    }

    /// A file without which the snapshot is none.
    fn part(&self, name: &str) -> Result<File, MonitorError> {
        self.open(name, OFlags::empty())?.ok_or_else(|| self.refused(name, "it is missing"))
    }

    fn read_meta(&self, file: File) -> Result<Meta, MonitorError> {
        let mut text = Vec::new();
        let read = file.take(META_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|error: io::Error| self.refused(META, &error.to_string()))?;
        serde_json::from_slice(&text).map_err(|_| self.refused(META, "it describes no snapshot"))
    }
}

/// Why something in the store is not what this user has put there.
fn why_not_ours(found: &Metadata, flags: OFlags) -> Option<&'static str> {
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Some("it belongs to another user");
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Some("others than its owner may write to it");
    }
    let is_of_its_kind = found.is_file() || flags.contains(OFlags::DIRECTORY);
    (!is_of_its_kind).then_some("it is no file")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    };

    use super::*;

    const KEY: &str = "k-i-r-kvm.1-any-c1-m128";
    const BENEATH: &str = "templates/base/snapshot";

    /// A store with one whole snapshot, and that snapshot's directory.
    fn store() -> (tempfile::TempDir, PathBuf) {
        let store = tempfile::tempdir().expect("a directory for the test");
        let directory = store.path().join(BENEATH).join(KEY);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).expect("writable");
        put(&directory, "memory", "1234");
        put(&directory, "state", "s");
        put(&directory, "meta.json", &described(KEY, 4));
        (store, directory)
    }

    fn described(key: &str, bytes: u64) -> String {
        format!(r#"{{"key":"{key}","bytes":{bytes},"template":{{}}}}"#)
    }

    fn put(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        fs::write(&path, text).expect("writable");
        allow(&path, 0o600);
    }

    fn allow(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    /// Takes something out of the store, and puts a link to it in its place.
    fn link_out(outside: &Path, path: &Path) {
        let moved = outside.join("moved");
        fs::rename(path, &moved).expect("it is ours");
        symlink(moved, path).expect("writable");
    }

    #[track_caller]
    fn check(tamper: impl FnOnce(&Path, &Path), at: &str, reason: &str) {
        let ((store, directory), outside) = (store(), tempfile::tempdir().expect("a directory for the test"));
        tamper(&directory, outside.path());
        let said = open(store.path(), Path::new(BENEATH), KEY).expect_err("it is refused").to_string();
        let path = if at.is_empty() { directory } else { directory.join(at) };
        assert!(said.contains(&format!("cannot use {}: ", path.display())), "{said}");
        assert!(said.contains(reason) && said.ends_with(REMEDY), "{said}");
    }

    #[test]
    fn a_whole_snapshot_of_ours_is_opened_and_a_half_one_is_none() {
        let (store, directory) = store();
        let open = || open(store.path(), Path::new(BENEATH), KEY).expect("nobody has touched it");
        assert!(open().is_some_and(|files| files.directory == directory));
        fs::remove_file(directory.join("meta.json")).expect("it is ours");
        assert!(open().is_none(), "it is being written, or removed");
        fs::remove_dir_all(directory).expect("it is ours");
        assert!(open().is_none());
    }

    #[test]
    fn links_are_refused_wherever_they_are() {
        let reason = "a symbolic link is on its path";
        check(|directory, outside| link_out(outside, &directory.join("memory")), "memory", reason);
        check(|directory, outside| link_out(outside, &directory.join("meta.json")), "meta.json", reason);
        check(|directory, outside| link_out(outside, directory), "", reason);
        let all = |directory: &Path| directory.parent().expect("it is in the store").to_owned();
        check(|directory, outside| link_out(outside, &all(directory)), "", reason);
    }

    #[test]
    fn what_others_own_or_may_write_to_is_refused() {
        let reason = "others than its owner may write to it";
        check(|directory, _| allow(directory, 0o770), "", reason);
        check(|directory, _| allow(&directory.join("state"), 0o602), "state", reason);
        if rustix::process::geteuid().is_root() {
            let give = |directory: &Path, _: &Path| {
                std::os::unix::fs::chown(directory.join("memory"), Some(65_534), None).expect("root may");
            };
            check(give, "memory", "it belongs to another user");
        }
    }

    #[test]
    fn files_of_another_snapshot_or_kind_are_refused() {
        let foreign = |directory: &Path, _: &Path| put(directory, "meta.json", &described("other", 4));
        check(foreign, "meta.json", "it is of another snapshot, \"other\"");
        check(|directory, _| put(directory, "meta.json", "{}"), "meta.json", "it describes no snapshot");
        check(|directory, _| put(directory, "memory", "123"), "memory", "it is cut short");
        check(
            |directory, _| fs::remove_file(directory.join("state")).expect("it is ours"),
            "state",
            "it is missing",
        );
        let replace = |directory: &Path, _: &Path| {
            fs::remove_file(directory.join("state")).expect("it is ours");
            fs::create_dir(directory.join("state")).expect("writable");
        };
        check(replace, "state", "it is no file");
    }
}
