//! Opening the files that a request names. Only regular ones: a FIFO would have the open or the read wait for its other
//! end, which may never come, and a device may do anything.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{fs::OFlags, io::Errno};

use crate::answer::No;

const NOT_FILE: No = No::invalid("not_file", "that is not a regular file");

/// Opens a file to read it.
pub fn to_read(path: &Path) -> Result<File, No> {
    regular(path, File::options().read(true))
}

/// Opens a file to write it, made or emptied.
pub fn to_write(path: &Path) -> Result<File, No> {
    regular(path, File::options().write(true).create(true).truncate(true))
}

fn regular(path: &Path, options: &mut OpenOptions) -> Result<File, No> {
    let file = match options.custom_flags(OFlags::NONBLOCK.bits() as i32).open(path) {
        // open(2): a FIFO that nobody reads, a socket, or a device that is not there.
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => return Err(NOT_FILE),
        opened => opened?,
    };
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(No::invalid("is_directory", "that is a directory"));
    }
    if kind.is_file() { Ok(file) } else { Err(NOT_FILE) }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::net::UnixListener, path::PathBuf};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn refusals(path: &Path) -> [Option<String>; 2] {
        [to_read(path), to_write(path)].map(|opened| opened.err().map(|No(_, refusal)| refusal.code.into()))
    }

    fn fifo(home: &tempfile::TempDir) -> PathBuf {
        let path = home.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("it is new");
        path
    }

    #[test]
    fn a_fifo_is_refused_at_once_whether_or_not_it_has_another_end() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let path = fifo(&home);
        let no = || [Some("not_file".to_owned()), Some("not_file".to_owned())];
        assert_eq!(refusals(&path), no());
        let _both_ends = File::options().read(true).write(true).open(&path).expect("it is there");
        assert_eq!(refusals(&path), no());
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_its_kind() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let socket = home.path().join("socket");
        let _listener = UnixListener::bind(&socket).expect("it is new");
        for (path, code) in
            [(home.path(), "is_directory"), (&socket, "not_file"), (Path::new("/dev/null"), "not_file")]
        {
            assert_eq!(refusals(path), [Some(code.to_owned()), Some(code.to_owned())]);
        }
    }

    #[test]
    fn a_file_is_read_as_it_is_and_emptied_to_be_written() {
        let home = tempfile::tempdir().expect("a directory for the test");
        let path = home.path().join("file");
        fs::write(&path, "text").expect("it is new");
        let mut text = String::new();
        to_read(&path).expect("it is a file").read_to_string(&mut text).expect("it is text");
        assert_eq!(text, "text");
        to_write(&path).expect("it is a file");
        assert_eq!(fs::read(&path).expect("it is there"), b"");
    }
}
