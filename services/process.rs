//! What every role does to its own process first: no core dumps, nothing of a value in a panic's text, quiet logs; and the clock that all are given.

use std::io::IsTerminal as _;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use omnirun_commands::MasterKey;
use omnirun_events::unit::{Clock, Timestamp};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// The last of the standard descriptors (stdio(3)).
const STANDARD_ERROR: RawFd = 2;

/// Hardens the process. Secrets and users' code are in its memory, so it leaves no core and no other process of its user may
/// read it. What it was handed open by whoever started it is not handed on: a guest's monitor inherits what it is given and no more.
///
/// Called first, while nothing else runs.
pub fn harden() -> anyhow::Result<()> {
    keep_inherited_files().context("cannot keep inherited files from other programs")?;
    // One byte, not none: where core_pattern is a pipe, the kernel ignores a limit of 0 and takes 1 as "never" (fs/coredump.c).
    let none = Rlimit { current: Some(1), maximum: Some(1) };
    setrlimit(Resource::Core, none).context("cannot forbid core dumps")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("cannot forbid that others read this process")?;
    std::panic::set_hook(Box::new(|panic| {
        // The payload may hold a value; the place is enough to find the bug.
        match panic.location() {
            Some(place) => eprintln!("omnirun: bug at {}:{}", place.file(), place.line()),
            None => eprintln!("omnirun: bug at an unknown place"),
        }
    }));
    Ok(())
}

/// Has every open file but the three standard ones closed when another program is started. Our own are made so.
fn keep_inherited_files() -> std::io::Result<()> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        inherited.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    for fd in inherited.into_iter().filter(|fd| *fd > STANDARD_ERROR) {
        // SAFETY: nothing else runs yet, so that a descriptor that was listed is open, except the one that listed them.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match fcntl_setfd(fd, FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sends log lines to standard error: a sentence and fields, information and worse.
pub fn start_logging() {
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(is_terminal).with_target(false).init();
}

/// The system's time. A clock before 1970 reads as 1970: folds and deciders then refuse what looks expired.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The system's clock: [`now`].
pub fn clock() -> Clock {
    Arc::new(now)
}

/// File name of the master key, in the directory of keys.
pub const MASTER_KEY: &str = "master.key";

/// Makes the master key beside the signing keys.
pub fn make_master_key(keys: &Path) -> std::io::Result<()> {
    MasterKey::create(&keys.join(MASTER_KEY)).map(drop).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};

    use super::*;

    /// Has the test below panic with this text.
    const PANIC_WITH: &str = "OMNIRUN_TEST_PANIC_WITH";

    #[test]
    fn nothing_below_information_is_compiled_in_so_that_no_variable_brings_it_back() {
        assert_eq!(STATIC_MAX_LEVEL, LevelFilter::INFO);
    }

    #[test]
    fn a_panic_says_where_and_never_what() {
        let child = Command::new(std::env::current_exe().expect("a test is a program"))
            .args(["process::tests::a_process_of_ours_that_panics", "--exact", "--nocapture"])
            .env(PANIC_WITH, "qzcanary")
            .env("RUST_BACKTRACE", "full")
            .output()
            .expect("it starts");
        let said = [child.stdout, child.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!child.status.success() && said.contains("omnirun: bug at services/process.rs:"), "{said}");
        assert!(!said.contains("qzcanary"), "{said}");
    }

    /// Does nothing unless the test above asks for it in a process of its own.
    #[test]
    fn a_process_of_ours_that_panics() {
        let Ok(text) = std::env::var(PANIC_WITH) else { return };
        harden().expect("a process may harden itself");
        let parsed = text.parse::<u8>().map_err(|_| text);
        parsed.expect("this text may be shown, the value may not");
    }
}
