//! What an owner needs of the host's files while its guest lives and when it ends. An owner in a jail has no files, and
//! asks its keeper; another one does it itself.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use omnirun_vmm_api::{
    Bytes, Purpose,
    owner::{FINAL, Final, SOCKET},
};
use serde::{Deserialize, Serialize};

use crate::shelf::Shelf;

/// The longest message between an owner and its keeper.
pub const MESSAGE_BYTES_MAX: u64 = 4096;
/// How long a keeper may take: it removes some files, and renames a directory.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// What an owner asks its keeper for, a line of JSON each. The answer is a line too: empty, or what failed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// The new snapshot has been written.
    KeepSnapshot(Bytes),
    /// The snapshot that is there does not come to life.
    DiscardSnapshot,
    /// The guest has ended: remove all but this.
    Leave(Final),
}

/// The files of one guest on the host.
pub struct Files {
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Its snapshot, there or to be made.
    pub shelf: Shelf,
    /// What the guest is for.
    pub purpose: Purpose,
}

impl Files {
    /// Does it.
    pub fn grant(&self, wish: &Wish) -> io::Result<()> {
        match wish {
            Wish::KeepSnapshot(bytes) if self.purpose == Purpose::Snapshot => self.shelf.keep(*bytes),
            Wish::KeepSnapshot(_) => Err(io::ErrorKind::PermissionDenied.into()),
            Wish::DiscardSnapshot => {
                self.shelf.discard();
                Ok(())
            }
            Wish::Leave(left) => self.leave(left),
        }
    }

    /// Whether a worker can still find the guest.
    pub fn is_in_reach(&self) -> bool {
        self.state_dir.join(SOCKET).symlink_metadata().is_ok()
    }

    /// Removes everything but the numbers.
    fn leave(&self, left: &Final) -> io::Result<()> {
        let text = serde_json::to_vec(left)?;
        let temporary = self.state_dir.join("final.new");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        self.remove_but(Some("final.new"))?;
        // Last: whoever sees this file sees that nothing else is left.
        fs::rename(temporary, self.state_dir.join(FINAL))
    }

    /// Removes everything, of a guest that could not say how it ended.
    pub fn abandon(&self) -> io::Result<()> {
        self.remove_but(None)
    }

    fn remove_but(&self, kept: Option<&str>) -> io::Result<()> {
        self.shelf.abandon();
        for entry in fs::read_dir(&self.state_dir)? {
            let path = entry?.path();
            if kept.is_some_and(|kept| path.ends_with(kept)) {
                continue;
            }
            if path.symlink_metadata()?.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Who does it.
pub enum Outside {
    /// This process.
    Here(Box<Files>),
    /// The keeper at the other end of this channel.
    Keeper(Mutex<UnixStream>),
}

impl Outside {
    /// Has the new snapshot put in its place.
    pub fn keep_snapshot(&self, bytes: Bytes) -> io::Result<()> {
        self.ask(&Wish::KeepSnapshot(bytes))
    }

    /// Has the snapshot removed that is there.
    pub fn discard_snapshot(&self) {
        // One that stays is found to be of no use again, which costs time only.
        let _ = self.ask(&Wish::DiscardSnapshot);
    }

    /// Has everything removed but the numbers.
    pub fn leave(&self, left: &Final) -> io::Result<()> {
        self.ask(&Wish::Leave(*left))
    }

    fn ask(&self, wish: &Wish) -> io::Result<()> {
        let channel = match self {
            Self::Here(files) => return files.grant(wish),
            Self::Keeper(channel) => channel.lock().unwrap_or_else(PoisonError::into_inner),
        };
        channel.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
        let mut text = serde_json::to_vec(wish)?;
        text.push(b'\n');
        (&*channel).write_all(&text)?;
        let mut answer = String::new();
        BufReader::new((&*channel).take(MESSAGE_BYTES_MAX)).read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some("") => Ok(()),
            Some(failure) => Err(io::Error::other(failure.to_owned())),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use omnirun_vmm::store::Template;
    use omnirun_vmm_api::{
        Guest, MemoryMib, Monitor, MonitorError, SnapshotFiles, UnixMillis, Vcpus, VmSpec,
        owner::{EndReason, Usage},
    };

    use super::*;

    struct Nothing;

    impl Monitor for Nothing {
        fn identity(&self) -> Result<String, MonitorError> {
            Ok("nothing.1".to_owned())
        }

        fn start(&self, _: &VmSpec) -> Result<Box<dyn Guest>, MonitorError> {
            unreachable!("no guest is started")
        }

        fn restore(&self, _: &VmSpec, _: SnapshotFiles) -> Result<Box<dyn Guest>, MonitorError> {
            unreachable!("no guest is started")
        }
    }

    fn files(home: &std::path::Path, purpose: Purpose) -> Files {
        let put = |name: &str, text: &str| {
            let path = home.join(name);
            fs::create_dir_all(path.parent().expect("it is in a directory")).expect("writable");
            fs::write(path, text).expect("writable");
        };
        for name in ["kernel/vmlinux", "initramfs.cpio", "templates/base/root.sqfs", "state/owner.sock"] {
            put(name, "");
        }
        let described = r#"{"name":"base","kernel":"k","initramfs":"i","root":"r"}"#;
        put("templates/base/template.json", described);
        let template = Template::open(home, "base").expect("it has just been made");
        let shelf = Shelf::new(&template, &Nothing, Vcpus(1), MemoryMib(128)).expect("it has a name");
        Files { state_dir: home.join("state"), shelf, purpose }
    }

    fn left() -> Final {
        Final { reason: EndReason::Killed, ended_at_ms: UnixMillis(1), usage: Usage::default() }
    }

    #[test]
    fn a_new_snapshot_is_found_once_it_is_kept_and_not_before() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let files = files(home.path(), Purpose::Snapshot);
        files.shelf.make().expect("writable");
        assert!(files.shelf.open().is_none());
        files.grant(&Wish::KeepSnapshot(Bytes(5))).expect("writable");
        assert!(files.shelf.open().is_some());
        files.grant(&Wish::DiscardSnapshot).expect("writable");
        assert!(files.shelf.open().is_none());
    }

    #[test]
    fn a_sandbox_keeps_no_snapshot() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let files = files(home.path(), Purpose::Sandbox);
        files.shelf.make().expect("writable");
        assert!(files.grant(&Wish::KeepSnapshot(Bytes(5))).is_err());
        assert!(files.shelf.open().is_none());
    }

    #[test]
    fn nothing_but_the_numbers_is_left() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let files = files(home.path(), Purpose::Snapshot);
        let made = files.shelf.make().expect("writable");
        assert!(files.is_in_reach());
        files.grant(&Wish::Leave(left())).expect("writable");
        let names: Vec<_> = fs::read_dir(&files.state_dir).expect("it stays").flatten().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].file_name(), FINAL);
        assert!(!made.directory.exists() && !files.is_in_reach());
        files.abandon().expect("writable");
        assert_eq!(fs::read_dir(&files.state_dir).expect("it stays").count(), 0);
    }

    #[test]
    fn an_owner_without_files_hears_from_its_keeper_what_failed() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let keeper = std::thread::spawn(move || {
            let mut wishes = String::new();
            for answer in ["\n", "there is no room\n"] {
                BufReader::new(&theirs).read_line(&mut wishes).expect("a wish");
                (&theirs).write_all(answer.as_bytes()).expect("it listens");
            }
            wishes
        });
        let outside = Outside::Keeper(Mutex::new(ours));
        outside.keep_snapshot(Bytes(7)).expect("it was done");
        let said = outside.leave(&left()).expect_err("it was not done").to_string();
        assert_eq!(said, "there is no room");
        let wishes = keeper.join().expect("it does not panic");
        assert!(wishes.starts_with("{\"keep_snapshot\":7}\n{\"leave\":"), "{wishes}");
        assert!(outside.leave(&left()).is_err(), "its keeper has gone");
    }
}
