//! The template store, as `scripts/guest-image` makes it: where a template's files and snapshots are.
//!
//! ```text
//! kernel/vmlinux   initramfs.cpio   templates/<name>/{root.sqfs,template.json,snapshot/<key>/{memory,state,meta.json}}
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use omnirun_vmm_api::{ImageFiles, MemoryMib, TemplateDigests, Vcpus};

/// A template of a store, with its files there.
#[derive(Debug, Clone)]
pub struct Template {
    /// What it consists of.
    pub digests: TemplateDigests,
    /// Where that is.
    pub files: ImageFiles,
    directory: PathBuf,
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
        let directory = store.join("templates").join(name);
        let missing = |path: &Path, source| StoreError::Missing { path: path.to_owned(), source };
        let described = directory.join("template.json");
        let text = fs::read(&described).map_err(|error| missing(&described, error))?;
        let digests = serde_json::from_slice(&text).map_err(|error| missing(&described, error.into()))?;
        let files = ImageFiles {
            kernel: store.join("kernel/vmlinux"),
            initramfs: store.join("initramfs.cpio"),
            root: directory.join("root.sqfs"),
        };
        for path in [&files.kernel, &files.initramfs, &files.root] {
            fs::metadata(path).map_err(|error| missing(path, error))?;
        }
        Ok(Self { digests, files, directory })
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

    /// The directory of this template's snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.directory.join("snapshot")
    }

    /// Names a snapshot by everything that it depends on: the files, the program that restores it, and the shape.
    /// Two keys that differ only before the last two parts replace each other.
    pub fn snapshot_key(&self, monitor: &str, vcpus: Vcpus, memory: MemoryMib) -> String {
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        let TemplateDigests { kernel, initramfs, root, .. } = &self.digests;
        format!("{}-{}-{}-{monitor}-c{}-m{}", short(kernel), short(initramfs), short(root), vcpus.0, memory.0)
    }
}
