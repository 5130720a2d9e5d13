//! What an initramfs is made of, and where else that can be put. Archives are cpio archives in the "newc" form of Linux' Documentation/driver-api/early-userspace/buffer-format.rst.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// stat(2): directory and regular file, with the rights that are used here.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Where files can be put: an archive, or a directory of this machine.
pub trait Tree {
    /// Adds an empty directory.
    fn directory(&mut self, name: &str) -> Result<()>;
    /// Adds a file of this machine, which everybody may read and run.
    fn file(&mut self, name: &str, path: &Path) -> Result<()>;
}

/// A directory.
pub struct Folder(pub PathBuf);

impl Tree for Folder {
    fn directory(&mut self, name: &str) -> Result<()> {
        Ok(fs::create_dir_all(self.0.join(name))?)
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let at = self.0.join(name);
        fs::copy(path, &at).with_context(|| format!("cannot copy {}", path.display()))?;
        Ok(fs::set_permissions(at, fs::Permissions::from_mode(PROGRAM & 0o777))?)
    }
}

/// An archive being written.
pub struct Archive<W: Write> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, b"")?;
        Ok(self.out.flush()?)
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(bytes.len()).context("a file of 4 GiB or more")?;
        let name_size = u32::try_from(name.len() + 1)?;
        // inode, mode, uid, gid, links, time, size, device and special device (major and minor), name's size, check.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(b"\0")?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len())
    }

    /// Everything begins at a multiple of four.
    fn pad(&mut self, written: usize) -> Result<()> {
        Ok(self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])?)
    }
}

impl<W: Write> Tree for Archive<W> {
    fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIRECTORY, b"")
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.entry(name, PROGRAM, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_made_of_headers_of_110_bytes_and_padding_to_four() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("d").expect("a vector takes everything");
        archive.finish().expect("a vector takes everything");
        assert_eq!(&bytes[..22], b"07070100000001000041ed");
        assert_eq!(&bytes[110..112], b"d\0");
        assert_eq!(&bytes[112..118], b"070701");
        assert_eq!(bytes.len(), 112 + 110 + 11 + 3);
    }
}
