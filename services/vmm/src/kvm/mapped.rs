//! A file of the template as bytes, without a copy of it in this process.

use std::{fs::File, io, ops::Deref, ptr, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A file that is mapped as a whole.
pub struct Mapped {
    at: NonNull<u8>,
    length: usize,
}

impl Mapped {
    /// Maps a file that is not empty. Its pages are brought in at once: all of them are about to be copied.
    pub fn new(file: &File) -> io::Result<Self> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let length = usize::try_from(file.metadata()?.len()).map_err(too_long)?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
        }
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping anywhere, that no code refers to.
        let at = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, flags, file, 0) }?;
        let at = NonNull::new(at.cast::<u8>()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { at, length })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long and lives as long as the borrow. A template's files are replaced by new
        // ones and never changed.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this is exactly what was mapped, and no borrow of it is left.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_seen_whole_and_an_empty_one_is_refused() {
        let mut file = tempfile::tempfile().expect("a file for the test");
        assert!(Mapped::new(&file).is_err());
        file.write_all(&[7; 5000]).expect("there is room");
        assert_eq!(*Mapped::new(&file).expect("it is not empty"), [7; 5000]);
    }
}
