//! OmniRun's guest agent: process 1 of every microVM. It makes the root file system, then serves one host over the
//! virtio port: commands, code and files, HTTP/2, nothing before the guest has been personalised.
//!
//! Reading order: [`boot`], [`port`], [`serve`], [`barrier`], then what is served: [`command`], [`code`], [`file`],
//! [`metrics`]. It writes no log of any kind; a boot that fails ends the guest with one line on the console.

mod boot;

mod port;

mod serve;

mod answer;

mod barrier;

mod reap;

mod user;

mod command;

mod code;

mod repeat;

mod file;

mod free;

mod metrics;

mod clock;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("omnirun-agent: runs as process 1 of a guest only");
        return ExitCode::from(2);
    }
    let failed = match boot::boot() {
        Ok(()) => port::serve_for_ever().err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    // The end of process 1 is a kernel panic, and with panic=1 the end of the virtual machine.
    eprintln!("omnirun-agent: {}", failed.unwrap_or_default());
    ExitCode::FAILURE
}
