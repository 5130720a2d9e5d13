//! Entries of the guest's file system: looking, making, listing, removing.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{chown, lchown},
    path::Path,
};

use hyper::StatusCode;
use omnirun_agent_api::{Content, Entry};

use super::open;
use crate::{answer::No, user::User};

/// The longest file that is given as JSON.
const CONTENT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The most entries of one listing.
const LISTED_MAX: usize = 10_000;

/// What is at a path; a symbolic link is followed unless it leads nowhere.
pub fn of(path: &Path) -> io::Result<Entry> {
    let metadata = fs::metadata(path).or_else(|_| fs::symlink_metadata(path))?;
    let text = path.to_string_lossy();
    let name = path.file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy());
    Ok(Entry {
        name: name.as_ref().into(),
        path: text.as_ref().into(),
        is_dir: metadata.is_dir(),
        size: metadata.len(),
    })
}

/// A file's text.
pub fn content(path: &Path) -> Result<Content, No> {
    let mut bytes = Vec::new();
    open::to_read(path)?.take(CONTENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONTENT_BYTES_MAX {
        return Err(No::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the file is longer than 16 MiB: download it",
        ));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| No::invalid("not_text", "the file is not UTF-8 text: download it"))?;
    Ok(Content { content: text.into() })
}

/// Makes or empties a file that then belongs to the user, with the directories above it.
pub fn create(user: &User, path: &Path) -> Result<File, No> {
    if let Some(parent) = path.parent() {
        make_directories(user, parent)?;
    }
    let is_new = fs::symlink_metadata(path).is_err();
    let file = open::to_write(path)?;
    if is_new {
        chown(path, Some(user.uid), Some(user.gid))?;
    }
    Ok(file)
}

/// Makes a directory and those above it; what is made belongs to the user.
pub fn make_directories(user: &User, path: &Path) -> io::Result<()> {
    let missing: Vec<_> =
        path.ancestors().take_while(|ancestor| fs::symlink_metadata(ancestor).is_err()).collect();
    if missing.is_empty() && !path.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    for directory in missing.into_iter().rev() {
        fs::create_dir(directory)?;
        lchown(directory, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

/// Removes a file, a link, or a directory with all that is in it.
pub fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// What is in a directory, to a depth, each directory before its contents and names in order. Links are not followed.
pub fn list(path: &Path, depth: u32) -> Result<Vec<Entry>, No> {
    let mut entries = Vec::new();
    let mut pending = vec![(path.to_owned(), depth)];
    while let Some((directory, depth)) = pending.pop() {
        if directory != path {
            // One that vanished while it was being listed is left out.
            let Ok(entry) = of(&directory) else { continue };
            let is_walked = depth > 0 && fs::symlink_metadata(&directory).is_ok_and(|found| found.is_dir());
            entries.push(entry);
            if !is_walked {
                continue;
            }
        }
        let mut inside: Vec<_> =
            fs::read_dir(&directory)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        if entries.len() + pending.len() + inside.len() > LISTED_MAX {
            return Err(No::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "there are more than 10000 entries",
            ));
        }
        inside.sort_unstable_by(|a, b| b.cmp(a));
        pending.extend(inside.into_iter().map(|entry| (entry, depth - 1)));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_as_deep_as_asked() {
        let home = tempfile::tempdir().expect("a directory for the test");
        fs::create_dir_all(home.path().join("b/c")).expect("it is empty");
        fs::write(home.path().join("a"), "12345").expect("it is empty");
        let names = |depth| -> Vec<String> {
            let listed = list(home.path(), depth).expect("it is there");
            listed.into_iter().map(|entry| entry.name.into_inner()).collect()
        };
        assert_eq!(names(1), ["a", "b"]);
        assert_eq!(names(2), ["a", "b", "c"]);
    }
}
