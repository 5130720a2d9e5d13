//! Real servers and a real client for tests and the demo: `omnirun up` as a process, an SMTP server, HTTP.
//!
//! Each server listens on a free port of the loopback interface and has a directory of its own. Nothing here knows what is asserted;
//! that is in the tests that use it.

pub mod cluster;
pub mod disk;
pub mod export;
pub mod http;
pub mod nats;
pub mod smtp;
pub mod up;
mod wait;

pub mod demo;
pub mod world;

use std::io::Write as _;
use std::path::PathBuf;

pub use nats::NatsServer;
pub use wait::{eventually, wait_until};

/// Prints a line that a reader of the whole run shall see: the test harness holds back what `println!` prints in a test that passes.
pub fn report(line: &str) {
    // A closed terminal is no reason for a test to fail.
    _ = writeln!(std::io::stderr(), "{line}");
}

/// The project's root directory.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The template store that `scripts/guest-image` makes; `OMNIRUN_IMAGES` names another.
pub fn images() -> PathBuf {
    std::env::var_os("OMNIRUN_IMAGES").map_or_else(|| root().join(".data/images"), PathBuf::from)
}

/// The program under test: `OMNIRUN_BINARY`, or the one that cargo built beside the running test or chore.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("OMNIRUN_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("omnirun"));
    let found = beside.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| anyhow::anyhow!("the program is missing: run cargo build --release --bin omnirun"))
}
