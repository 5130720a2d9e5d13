//! The template store, as `scripts/guest-image` makes it: where a template's files and snapshots are.
//!
//! ```text
//! kernel/vmlinux   initramfs.cpio   templates/<name>/{root.sqfs,template.json,snapshot/<key>/{memory,state,meta.json}}
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use omnirun_vmm_api::{ImageFiles, MemoryMib, Monitor, MonitorError, TemplateDigests, Vcpus};

/// A template of a store, with its files there.
#[derive(Debug, Clone)]
pub struct Template {
    /// What it consists of.
    pub digests: TemplateDigests,
    /// Where that is.
    pub files: ImageFiles,
    store: PathBuf,
    directory: PathBuf,
}

/// The name of a snapshot, which says what it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotKey {
    name: String,
    /// The part that those have in common of which only one is of use.
    end: String,
}

/// A template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name is not one of a directory entry.
    #[error("a template's name has only letters, digits, '.', '_' and '-', and no '.' first")]
    BadName,
    /// The template or one of its files is missing or broken.
    #[error("cannot read {path} of the template store: make it with scripts/guest-image")]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Template {
    /// Finds a template and checks that its files are there.
    pub fn open(store: &Path, name: &str) -> Result<Self, StoreError> {
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_plain) {
            return Err(StoreError::BadName);
        }
        let directory = Path::new("templates").join(name);
        let missing = |path: &Path, source| StoreError::Missing { path: path.to_owned(), source };
        let described = store.join(&directory).join("template.json");
        let text = fs::read(&described).map_err(|error| missing(&described, error))?;
        let digests = serde_json::from_slice(&text).map_err(|error| missing(&described, error.into()))?;
        let files = ImageFiles {
            kernel: store.join("kernel/vmlinux"),
            initramfs: store.join("initramfs.cpio"),
            root: store.join(&directory).join("root.sqfs"),
        };
        for path in [&files.kernel, &files.initramfs, &files.root] {
            fs::metadata(path).map_err(|error| missing(path, error))?;
        }
        Ok(Self { digests, files, store: store.to_owned(), directory })
    }

    /// Names in a store that have a description, in order. A store that is missing has none.
    pub fn list(store: &Path) -> Vec<String> {
        let entries = fs::read_dir(store.join("templates")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter(|entry| entry.path().join("template.json").is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The directory of this template's snapshots, seen from the store's.
    pub fn snapshots(&self) -> PathBuf {
        self.directory.join("snapshot")
    }

    /// Names a snapshot by everything that it depends on: the files, the program that restores it, the kind of processor, and
    /// the shape.
    pub fn snapshot_key(
        &self,
        monitor: &dyn Monitor,
        vcpus: Vcpus,
        memory: MemoryMib,
    ) -> Result<SnapshotKey, MonitorError> {
        let TemplateDigests { kernel, initramfs, root, .. } = &self.digests;
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        let made_of = [short(kernel), short(initramfs), short(root), monitor.identity()?].join("-");
        let end = format!("-{}-c{}-m{}", monitor.processor(), vcpus.0, memory.0);
        Ok(SnapshotKey { name: made_of + &end, end })
    }
}

impl SnapshotKey {
    /// The name of its directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a snapshot of this name was made for the same shape and processor of older files, or by an older monitor:
    /// nothing asks for it any more. Hosts with other processors may share the store, so theirs stay.
    pub fn replaces(&self, other: &str) -> bool {
        other.ends_with(&self.end) && other != self.name
    }
}

#[cfg(test)]
mod tests {
    use omnirun_vmm_api::{Guest, SnapshotFiles, VmSpec};

    use super::*;

    struct On(&'static str, &'static str);

    impl Monitor for On {
        fn identity(&self) -> Result<String, MonitorError> {
            Ok(self.0.to_owned())
        }

        fn processor(&self) -> String {
            self.1.to_owned()
        }

        fn start(&self, _: &VmSpec) -> Result<Box<dyn Guest>, MonitorError> {
            unreachable!("no guest is started")
        }

        fn restore(&self, _: &VmSpec, _: SnapshotFiles) -> Result<Box<dyn Guest>, MonitorError> {
            unreachable!("no guest is started")
        }
    }

    fn key(initramfs: &str, monitor: &On, memory: u32) -> SnapshotKey {
        let text = |text: &str| text.to_owned();
        let digests = TemplateDigests {
            name: text("base"),
            kernel: text("k"),
            initramfs: text(initramfs),
            root: text("r"),
        };
        let nowhere = ImageFiles { kernel: "k".into(), initramfs: "i".into(), root: "r".into() };
        let template = Template { digests, files: nowhere, store: "/".into(), directory: "base".into() };
        template.snapshot_key(monitor, Vcpus(1), MemoryMib(memory)).expect("it has a name")
    }

    #[test]
    fn a_snapshot_replaces_those_of_older_files_and_monitors_and_of_no_other_processor_or_shape() {
        let newest = key("new", &On("kvm.2", "amd"), 128);
        for older in [key("old", &On("kvm.2", "amd"), 128), key("new", &On("kvm.1", "amd"), 128)] {
            assert!(newest.replaces(older.name()), "{older:?}");
        }
        for other in [&newest, &key("new", &On("kvm.2", "intel"), 128), &key("new", &On("kvm.2", "amd"), 256)]
        {
            assert!(!newest.replaces(other.name()), "{other:?}");
        }
    }
}
