//! What an owner needs of the host's files while its guest lives and when it ends. An owner in a jail has no files, and
//! asks its keeper; another one does it itself.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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
    /// The snapshot that is there is damaged.
    DiscardSnapshot,
    /// The guest answers, and may be a sandbox's from here on: the store is not touched again on its behalf.
    CloseStore,
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
    purpose: Purpose,
    /// Whether the one change of the store that an owner may wish for is still possible.
    is_store_open: AtomicBool,
}

impl Files {
    /// Those of a guest that has not been started.
    pub fn new(state_dir: PathBuf, shelf: Shelf, purpose: Purpose) -> Self {
        Self { state_dir, shelf, purpose, is_store_open: AtomicBool::new(true) }
    }

    /// Does it, where this guest may have it. A guest's owner changes the store once, and never after its guest may
    /// have been a sandbox's: whoever has taken it over could ask for anything then.
    pub fn grant(&self, wish: &Wish) -> io::Result<()> {
        match (wish, self.purpose) {
            (Wish::KeepSnapshot(bytes), Purpose::Snapshot) if self.close_store() => self.shelf.keep(*bytes),
            (Wish::DiscardSnapshot, Purpose::Sandbox) if self.close_store() => {
                self.shelf.discard();
                Ok(())
            }
            (Wish::KeepSnapshot(_) | Wish::DiscardSnapshot, _) => Err(io::ErrorKind::PermissionDenied.into()),
            (Wish::CloseStore, _) => {
                self.close_store();
                Ok(())
            }
            (Wish::Leave(left), _) => self.leave(left),
        }
    }

    /// Whether it was open.
    fn close_store(&self) -> bool {
        self.is_store_open.swap(false, Ordering::SeqCst)
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

    /// Removes everything of a guest that was not started, the directory too.
    pub fn move_out(&self) {
        // The reason of the start's failure is what is said; where nothing was made yet, nothing is there to remove.
        let _ = self.abandon();
        let _ = fs::remove_dir(&self.state_dir);
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

    /// Gives up every wish about the store.
    pub fn close_store(&self) -> io::Result<()> {
        self.ask(&Wish::CloseStore)
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
    use omnirun_vmm_api::{
        UnixMillis,
        owner::{EndReason, Usage},
    };

    use super::*;
    use crate::double::files;

    fn left() -> Final {
        Final { reason: EndReason::Killed, ended_at_ms: UnixMillis(1), usage: Usage::default() }
    }

    fn has_snapshot(files: &Files) -> bool {
        files.shelf.open().expect("nobody has touched it").is_some()
    }

    /// The store with a snapshot in it, as a sandbox's owner finds it.
    fn with_snapshot(home: &std::path::Path) -> Files {
        let maker = files(home, Purpose::Snapshot);
        maker.shelf.make().expect("writable");
        maker.grant(&Wish::KeepSnapshot(Bytes(0))).expect("writable");
        files(home, Purpose::Sandbox)
    }

    #[test]
    fn a_new_snapshot_is_found_once_it_is_kept_and_not_before() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let files = files(home.path(), Purpose::Snapshot);
        files.shelf.make().expect("writable");
        assert!(!has_snapshot(&files));
        files.grant(&Wish::KeepSnapshot(Bytes(0))).expect("writable");
        assert!(has_snapshot(&files));
        assert!(files.grant(&Wish::DiscardSnapshot).is_err(), "it is another purpose's wish");
    }

    #[test]
    fn a_sandbox_keeps_no_snapshot() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let files = files(home.path(), Purpose::Sandbox);
        files.shelf.make().expect("writable");
        assert!(files.grant(&Wish::KeepSnapshot(Bytes(5))).is_err());
        assert!(!has_snapshot(&files));
    }

    #[test]
    fn a_snapshot_is_discarded_once_and_only_before_the_guest_may_be_a_sandboxs() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let files = with_snapshot(home.path());
        files.grant(&Wish::DiscardSnapshot).expect("writable");
        assert!(!has_snapshot(&files));

        with_snapshot(home.path());
        assert!(files.grant(&Wish::DiscardSnapshot).is_err() && has_snapshot(&files), "the second time");

        let files = with_snapshot(home.path());
        files.grant(&Wish::CloseStore).expect("it is always granted");
        assert!(files.grant(&Wish::DiscardSnapshot).is_err() && has_snapshot(&files), "it is too late");
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
