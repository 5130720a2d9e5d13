//! The place of one snapshot in the template store: opened or made before the owner goes into its jail, and kept,
//! thrown away or forgotten by whoever stays outside.

use std::{
    fs,
    fs::File,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use omnirun_vmm::store::Template;
use omnirun_vmm_api::{Bytes, MemoryMib, Monitor, MonitorError, SnapshotFiles, TemplateDigests, Vcpus};

/// The memory file in a snapshot's directory.
const MEMORY: &str = "memory";
/// Everything else of the guest, where the monitor keeps it apart.
const STATE: &str = "state";
/// What it was made of, for people and for `key`'s sake; its presence says that the snapshot is whole.
const META: &str = "meta.json";

/// Where the snapshot of one template, shape and monitor is.
pub struct Shelf {
    all: PathBuf,
    key: String,
    /// How the keys of this shape end.
    shape: String,
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
        let key = template.snapshot_key(&monitor.identity()?, vcpus, memory);
        let all = template.snapshots();
        let temporary = all.join(format!("{key}.{}", std::process::id()));
        let shape = format!("-c{}-m{}", vcpus.0, memory.0);
        Ok(Self { all, key, shape, template: template.digests.clone(), temporary })
    }

    /// The snapshot's name.
    pub fn key(&self) -> &str {
        &self.key
    }

    fn place(&self) -> PathBuf {
        self.all.join(&self.key)
    }

    /// The snapshot that is there, if there is one.
    pub fn open(&self) -> Option<SnapshotFiles> {
        let directory = self.place();
        let file = |name| File::open(directory.join(name)).ok();
        let (memory, state) =
            directory.join(META).is_file().then(|| Some((file(MEMORY)?, file(STATE)?)))??;
        Some(SnapshotFiles { memory, state, directory })
    }

    /// Two empty files for a new one, which nobody finds until it is kept.
    pub fn make(&self) -> io::Result<SnapshotFiles> {
        fs::create_dir_all(&self.all)?;
        fs::DirBuilder::new().mode(0o700).create(&self.temporary)?;
        let memory = File::create_new(self.temporary.join(MEMORY))?;
        let state = File::create_new(self.temporary.join(STATE))?;
        Ok(SnapshotFiles { memory, state, directory: self.temporary.clone() })
    }

    /// Puts the new one in its place, after its files have been written and synchronised.
    pub fn keep(&self, bytes: Bytes) -> io::Result<()> {
        let meta = serde_json::json!({ "key": self.key, "bytes": bytes, "template": self.template });
        fs::write(self.temporary.join(META), format!("{meta}\n"))?;
        let place = self.place();
        let _ = fs::remove_dir_all(&place);
        fs::rename(&self.temporary, &place)?;
        self.remove_stale();
        Ok(())
    }

    /// Removes a new one that was not kept, if there is one.
    pub fn abandon(&self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }

    /// Removes the snapshot that is there.
    pub fn discard(&self) {
        let _ = fs::remove_file(self.place().join(META));
        let _ = fs::remove_dir_all(self.place());
    }

    /// Removes snapshots of the same shape that older files or another monitor made, which nothing will ever ask for, and
    /// what an owner process that was killed while it wrote one has left.
    fn remove_stale(&self) {
        for entry in fs::read_dir(&self.all).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let writer = name.rsplit_once('.').and_then(|(_, pid)| pid.parse::<u32>().ok());
            let is_left_behind = writer.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            if is_left_behind || name.ends_with(&self.shape) && name != self.key {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
