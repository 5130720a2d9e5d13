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
