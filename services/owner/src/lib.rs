//! The owner process of one guest, the role `omnirun vmm`: started by the worker, outlives it, and alone talks to the
//! guest. It runs the monitor, keeps the one connection to the agent, enforces the end time, and leaves nothing but a
//! few numbers when the guest has ended.
//!
//! Its messages are in `omnirun_vmm_api::owner`. Reading order: [`main`], [`owner`] (what it knows), [`start`] (boot or
//! restore), [`agent`] (the connection), [`serve`] (the socket), [`snapshot`], [`end`] (the wait for an end, and the
//! teardown).

mod owner;

mod start;

mod agent;

mod serve;

mod answer;

mod relay;

mod snapshot;

mod end;

mod clock;

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::fs::DirBuilderExt,
    process::ExitCode,
    sync::Arc,
};

use omnirun_vmm::{choose, store::Template};
use omnirun_vmm_api::owner::OwnerSpec;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use owner::Owner;

/// What the fuzz targets feed with a guest's bytes; in their builds alone, so that this crate's surface stays [`main`].
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::{
        agent::{Agent, AgentError, connect},
        relay::passing,
    };
}

/// True only in a fuzzer's build that is to find a bug: each place that asks is one.
const PLANTED_BUG: bool = cfg!(all(fuzzing, feature = "planted-bug"));

/// The longest spec that is read.
const SPEC_BYTES_MAX: u64 = 64 * 1024;

/// Exit code for a spec that cannot be carried out; nothing has been started then, and standard error says why.
const EXIT_BAD_SPEC: u8 = 2;

/// Runs the role: reads an [`OwnerSpec`] from standard input, and returns when its guest has ended.
pub fn main() -> ExitCode {
    let started = clock::Started::now();
    match prepare(started) {
        Ok(owner) => run(owner),
        Err(error) => {
            complain(&*error);
            ExitCode::from(EXIT_BAD_SPEC)
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn prepare(started: clock::Started) -> Result<Owner, AnyError> {
    forbid_core_files()?;
    let mut text = Vec::new();
    io::stdin().take(SPEC_BYTES_MAX).read_to_end(&mut text)?;
    let spec: OwnerSpec = serde_json::from_slice(&text)?;
    owner::check(&spec)?;
    let template = Template::open(&spec.store, &spec.template)?;
    let monitor = choose(spec.monitor)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&spec.state_dir)?;
    // A process that leads its session already cannot make another one, and need not.
    let _ = rustix::process::setsid();
    Ok(Owner::new(spec, template, monitor, started))
}

fn run(owner: Owner) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let owner = Arc::new(owner);
    let code = runtime.block_on(end::live(owner));
    // A relay may still be copying for somebody who does not read; the guest it copies from is gone.
    runtime.shutdown_background();
    code
}

/// Says on standard error what failed, with its causes. The worker that would read it may be gone, which is no reason
/// to panic.
fn complain(error: &(dyn std::error::Error + 'static)) {
    let mut text = format!("omnirun vmm: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    let _ = writeln!(io::stderr(), "{text}");
}

/// Users' data passes through this process, so it must never be written to a core file. A limit of 1, not 0: it is
/// less than any core file, and it is the one value that the kernel also obeys where cores go to a program (core(5)).
fn forbid_core_files() -> Result<(), rustix::io::Errno> {
    setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
