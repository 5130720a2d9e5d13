//! Which edition of a program it is that makes snapshots and restores them: another one may have other devices.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use omnirun_vmm_api::MonitorError;

/// Names an edition by its file's size and time, which change with every build and every package. Asking a program for its
/// version costs a process, and a digest of it the time of reading it.
pub fn of(program: &Path) -> Result<String, MonitorError> {
    let file = fs::metadata(program).map_err(|source| MonitorError::Process { what: "look at", source })?;
    Ok(format!("{:x}.{:x}", file.len(), file.mtime()))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::SystemTime};

    use super::*;

    #[test]
    fn a_program_of_another_size_or_time_is_another_edition() {
        let file = tempfile::NamedTempFile::new().expect("a file for the test");
        let same_time = |length| {
            let open = File::options().write(true).open(file.path()).expect("it is ours");
            open.set_len(length).expect("there is room");
            open.set_modified(SystemTime::UNIX_EPOCH).expect("it is ours");
            of(file.path()).expect("it is there")
        };
        assert_eq!(same_time(16), "10.0");
        assert_eq!(same_time(17), "11.0");
        assert_ne!(of(Path::new("/proc/self/exe")).expect("it runs"), "11.0");
    }
}
