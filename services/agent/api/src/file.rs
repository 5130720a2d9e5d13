//! Messages about files in the guest.
//!
//! A path that does not begin with `/` is relative to the user's home. A path that is empty, has a NUL or a `..`
//! component, or is longer than 4096 bytes is refused with 422 `bad_path`.

use serde::{Deserialize, Serialize};

use crate::Private;

/// A file or directory. `path` is absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Last component of the path; `/` for the root.
    pub name: Private,
    /// Where it is.
    pub path: Private,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes.
    pub size: u64,
}

/// A file's text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// The whole file. One that is not UTF-8 or longer than 16 MiB has to be downloaded instead.
    pub content: Private,
}

/// Makes or replaces a file; parents are made too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WriteFile {
    /// Where.
    pub path: Private,
    /// The whole text.
    pub content: Private,
    /// Owner of what is made; default `user`.
    #[serde(default)]
    pub user: Option<String>,
}

/// A place in the file system, to make a directory at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// Where.
    pub path: Private,
    /// Owner of what is made; default `user`.
    #[serde(default)]
    pub user: Option<String>,
}

/// Renames a file or directory, replacing what has the new name as rename(2) does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rename {
    /// The name it has.
    #[serde(rename = "oldPath")]
    pub old_path: Private,
    /// The name it gets.
    #[serde(rename = "newPath")]
    pub new_path: Private,
    /// Whose home relative paths are in; default `user`.
    #[serde(default)]
    pub user: Option<String>,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exists {
    /// True for files, directories and anything else with that name.
    pub exists: bool,
}
