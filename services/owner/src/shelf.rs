//! The place of one snapshot in the template store: opened or made before the owner goes into its jail, and kept,
//! thrown away or forgotten by whoever stays outside. [`open`](mod@open) is how nothing but our own is opened.

mod open;

use std::{
    fs,
    fs::File,
    io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use omnirun_vmm::store::{SnapshotKey, Template};
use omnirun_vmm_api::{Bytes, MemoryMib, Monitor, MonitorError, SnapshotFiles, TemplateDigests, Vcpus};

/// The memory file in a snapshot's directory.
const MEMORY: &str = "memory";
/// Everything else of the guest, where the monitor keeps it apart.
const STATE: &str = "state";
/// What it was made of, for people and for `key`'s sake; its presence says that the snapshot is whole.
const META: &str = "meta.json";

/// A new snapshot has no place.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {path} in the template store: let this user write there, or give it a store of its own")]
pub struct MakeError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Where the snapshot of one template, shape and monitor is.
pub struct Shelf {
    store: PathBuf,
    /// The directory of the template's snapshots, seen from the store.
    beneath: PathBuf,
    key: SnapshotKey,
    template: TemplateDigests,
    /// Of the process that makes one, while it does.
    temporary: PathBuf,
}

impl Shelf {
    /// The place that fits.
    pub fn new(
        template: &Template,
        monitor: &dyn Monitor,
        vcpus: Vcpus,
        memory: MemoryMib,
    ) -> Result<Self, MonitorError> {
        let key = template.snapshot_key(monitor, vcpus, memory)?;
        let (store, beneath) = (template.store().to_owned(), template.snapshots());
        let temporary = store.join(&beneath).join(format!("{}.{}", key.name(), std::process::id()));
        Ok(Self { store, beneath, key, template: template.digests.clone(), temporary })
    }

    /// The snapshot's name.
    pub fn key(&self) -> &str {
        self.key.name()
    }

    fn all(&self) -> PathBuf {
        self.store.join(&self.beneath)
    }

    fn place(&self) -> PathBuf {
        self.all().join(self.key())
    }

    /// The snapshot that is there, if there is one; one that is not ours is refused.
    pub fn open(&self) -> Result<Option<SnapshotFiles>, MonitorError> {
        open::open(&self.store, &self.beneath, self.key())
    }

    /// Two empty files for a new one, which nobody finds until it is kept. What cannot be made leaves nothing.
    pub fn make(&self) -> Result<SnapshotFiles, MakeError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| MakeError { path, source }
        };
        fs::create_dir_all(self.all()).map_err(fault(&self.all()))?;
        fs::DirBuilder::new().mode(0o700).create(&self.temporary).map_err(fault(&self.temporary))?;
        let new = |name| {
            let path = self.temporary.join(name);
            new_file(&path).map_err(fault(&path))
        };
        match (new(MEMORY), new(STATE)) {
            (Ok(memory), Ok(state)) => Ok(SnapshotFiles { memory, state, directory: self.temporary.clone() }),
            (Err(error), _) | (_, Err(error)) => {
                self.abandon();
                Err(error)
            }
        }
    }

    /// Puts the new one in its place, after its files have been written and synchronised.
    pub fn keep(&self, bytes: Bytes) -> io::Result<()> {
        let meta = serde_json::json!({ "key": self.key(), "bytes": bytes, "template": self.template });
        writeln!(new_file(&self.temporary.join(META))?, "{meta}")?;
        self.discard();
        fs::rename(&self.temporary, self.place())?;
        self.remove_stale();
        Ok(())
    }

    /// Removes a new one that was not kept, if there is one.
    pub fn abandon(&self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }

    /// Removes the snapshot that is there, all at once for whoever looks for it; of a link, the link.
    pub fn discard(&self) {
        let aside = self.all().join(format!("{}-old.{}", self.key(), std::process::id()));
        if fs::rename(self.place(), &aside).is_ok() {
            let _ = fs::remove_dir_all(&aside).or_else(|_| fs::remove_file(&aside));
        }
    }

    /// Removes the snapshots that this one replaces, and what an owner process that was killed while it wrote one has left.
    fn remove_stale(&self) {
        for entry in fs::read_dir(self.all()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let writer = name.rsplit_once('.').and_then(|(_, pid)| pid.parse::<u32>().ok());
            let is_left_behind = writer.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            if is_left_behind || self.key.replaces(&name) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// A file that nobody else may write to, whatever this process was told about rights (umask(2)).
fn new_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}
