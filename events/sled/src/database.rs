//! One sled database: opened so that its panics stay inside, written so that what it says is on disk is on disk.

use std::any::Any;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use omnirun_events::Mebibytes;

use crate::error::{OpenError, StoreError, io_error};

/// How long a database that this process closed a moment ago may still be locked: sled's threads let go of it late, and a process that was
/// forked meanwhile holds its lock until it execs.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(5);

/// An open database. Its one tree is sled's default tree.
pub struct Database {
    tree: sled::Db,
    /// Our own descriptor of sled's file: `flush` writes without syncing (Linux: sync_file_range), fdatasync on this one does the rest.
    file: File,
}

/// Rows to be written.
pub enum Rows {
    /// After a crash, all of them or none.
    Whole(sled::Batch),
    /// After a crash, the first ones up to some point. Less than half of what a batch costs: sled puts a manifest before a batch, which is a
    /// write of its own.
    InOrder(Vec<(Vec<u8>, Vec<u8>)>),
}

/// Why a database does not open.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The system refused.
    #[error(transparent)]
    Io(OpenError),
    /// Its data is not sled's any more.
    #[error("its files are damaged: {0}")]
    Damaged(String),
}

impl Database {
    /// Opens or creates the database in `path`. Damage that sled notices is an error here, in whichever way sled says it.
    pub fn open(path: &Path, cache: Mebibytes) -> Result<Self, DatabaseError> {
        let io = |what, path: &Path| {
            let wrap = io_error(what, path);
            move |source| DatabaseError::Io(wrap(source))
        };
        fs::create_dir_all(path).map_err(io("create", path))?;
        remove_half_snapshots(path).map_err(io("clean", path))?;
        let is_new = !path.join("db").exists();
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(u64::from(cache.0) << 20)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let tree = open_unlocked(&config).map_err(|error| match error {
            StoreError::Sled(sled::Error::Io(error)) => io("open the database in", path)(error),
            other => DatabaseError::Damaged(other.describe()),
        })?;
        let file = File::options().read(true).write(true).open(path.join("db")).map_err(io("open", path))?;
        if is_new {
            sync_new(path).map_err(io("sync", path))?;
        }
        file.sync_data().map_err(io("sync", path))?;
        Ok(Self { tree, file })
    }

    /// Writes the rows. When it returns, they survive a power cut; one fdatasync.
    pub fn commit(&self, rows: Rows) -> Result<(), StoreError> {
        guarded(|| {
            match rows {
                Rows::Whole(batch) => self.tree.apply_batch(batch)?,
                Rows::InOrder(rows) => {
                    for (key, value) in rows {
                        self.tree.insert(key, value)?;
                    }
                }
            }
            self.tree.flush()?;
            Ok(())
        })?;
        self.file.sync_data().map_err(StoreError::Sync)
    }

    /// Applies the batch whole, durable with the next commit or on close.
    pub fn apply(&self, batch: sled::Batch) -> Result<(), StoreError> {
        guarded(|| Ok(self.tree.apply_batch(batch)?))
    }

    /// Runs a read; a panic of sled on damaged pages comes back as an error.
    pub fn reading<T>(
        &self,
        read: impl FnOnce(&sled::Tree) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        guarded(|| read(&self.tree))
    }

    /// Bytes that the file system still gives to this process; the largest number when it does not say.
    pub fn free_bytes(&self) -> u64 {
        rustix::fs::fstatvfs(&self.file).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
    }

    /// Writes out what is left and lets go of the files.
    pub fn close(self) -> Result<(), StoreError> {
        let Self { tree, file } = self;
        let flushed = guarded(|| Ok(tree.flush().map(|_| ())?));
        // sled syncs when it is dropped and panics if that fails; our own sync below says it as an error.
        let dropped = guarded(move || {
            drop(tree);
            Ok(())
        });
        flushed.and(dropped)?;
        file.sync_data().map_err(StoreError::Sync)
    }
}

/// Calls into sled; its panics become errors.
fn guarded<T>(call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(StoreError::Panicked(text_of(&*panic))))
}

/// The words that a panic begins with. What follows may be dumped rows, which belong in no message.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let is_word = |c: &char| c.is_ascii_alphabetic() || *c == ' ';
    text.unwrap_or("no reason given").chars().take_while(is_word).take(80).collect()
}

fn open_unlocked(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let started = Instant::now();
    loop {
        match guarded(|| Ok(config.open()?)) {
            Err(StoreError::Sled(sled::Error::Io(error)))
                if error.to_string().contains("could not acquire lock")
                    && started.elapsed() < UNLOCK_PATIENCE =>
            {
                // The directory's own lock is ours, so this is an earlier life of this database in this process.
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// Removes snapshots that a killed process left unfinished: sled would take one for its newest and refuse to open.
fn remove_half_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("snap.") && name.to_string_lossy().ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a new database's files and names durable; sled leaves that to chance.
fn sync_new(path: &Path) -> io::Result<()> {
    for name in ["conf", "db", "blobs", "."] {
        File::open(path.join(name))?.sync_all()?;
    }
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
