//! The owner process of one guest, the role `omnirun vmm`: started by the worker, outlives it, and alone talks to the
//! guest. It runs the monitor, keeps the one connection to the agent, enforces the end time, and leaves nothing but a
//! few numbers when the guest has ended. Where the monitor is in this very process, the process divides: the owner goes
//! into a jail with the monitor, and a keeper stays outside.
//!
//! Its messages are in `omnirun_vmm_api::owner`. Reading order: [`main`], [`owner`] (what it knows), [`start`] (boot or
//! restore), [`agent`] (the connection), [`serve`] (the socket), [`snapshot`], [`end`] (the wait for an end, and the
//! teardown); then [`outside`] (what is done to the host's files), [`shelf`] (a snapshot's place) and [`keeper`].

mod owner;

mod start;

mod agent;

mod serve;

mod answer;

mod relay;

mod snapshot;

mod shelf;

mod outside;

mod keeper;

mod end;

mod clock;

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::{fs::DirBuilderExt, net::UnixListener},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use omnirun_vmm::{
    choose,
    kvm::jail::{self, Shape, Side},
    store::Template,
};
use omnirun_vmm_api::{
    Place, Purpose, VmSpec,
    owner::{OwnerSpec, StartFrom},
};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use outside::{Files, Outside};
use owner::{Owner, Prepared};
use shelf::Shelf;

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

/// Runs the role: reads an [`OwnerSpec`] from standard input, and returns when its guest has ended. The process must
/// have one thread.
pub fn main() -> ExitCode {
    let started = clock::Started::now();
    let bad = |code| {
        move |error: AnyError| {
            complain(&*error);
            code
        }
    };
    prepare(started)
        .map_err(bad(ExitCode::from(EXIT_BAD_SPEC)))
        .and_then(|(prepared, files, listener)| {
            take_place(prepared, files, listener).map_err(bad(ExitCode::FAILURE))
        })
        .unwrap_or_else(|code| code)
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Reads the spec, and opens everything that has a path.
fn prepare(started: clock::Started) -> Result<(Prepared, Files, UnixListener), AnyError> {
    forbid_core_files()?;
    let mut text = Vec::new();
    io::stdin().take(SPEC_BYTES_MAX).read_to_end(&mut text)?;
    let spec: OwnerSpec = serde_json::from_slice(&text)?;
    owner::check(&spec)?;
    let template = Template::open(&spec.store, &spec.template)?;
    let mut monitor = choose(spec.monitor)?;
    spec.network.iter().try_for_each(|network| monitor.attach(network))?;
    let shelf = Shelf::new(&template, &*monitor, spec.vcpus, spec.memory)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&spec.state_dir)?;
    // A process that leads its session already cannot make another one, and need not.
    let _ = rustix::process::setsid();
    let listener = serve::listen(&spec.state_dir)?;
    let vm = VmSpec {
        template: template.digests.clone(),
        files: template.files.clone(),
        vcpus: spec.vcpus,
        memory: spec.memory,
        backing: spec.backing,
        state_dir: spec.state_dir.clone(),
        purpose: spec.purpose,
    };
    let snapshot = match (spec.purpose, spec.start_from) {
        (Purpose::Snapshot, _) => Some(shelf.make()?),
        (Purpose::Sandbox, StartFrom::Boot) => None,
        (Purpose::Sandbox, StartFrom::Auto) if spec.network.is_some() => None,
        (Purpose::Sandbox, StartFrom::Auto | StartFrom::Snapshot) => shelf.open(),
    };
    let snapshot_key = shelf.key().to_owned();
    let files = Files { state_dir: spec.state_dir.clone(), shelf, purpose: spec.purpose };
    let template = template.digests;
    Ok((Prepared { spec, vm, template, snapshot_key, snapshot, monitor, started }, files, listener))
}

/// Goes to where the guest will run, and lives with it there. A keeper lives here.
fn take_place(mut prepared: Prepared, files: Files, listener: UnixListener) -> Result<ExitCode, AnyError> {
    if prepared.monitor.place() == Place::Child {
        let owner = Owner::new(prepared, std::process::id(), Outside::Here(Box::new(files)));
        return Ok(run(owner, listener));
    }
    let VmSpec { vcpus, memory, purpose, .. } = prepared.vm;
    let shape = Shape { vcpus, memory, purpose };
    let divided = jail::divide(&prepared.spec.vm_id, shape, &prepared.vm.files.root);
    match divided.inspect_err(|_| drop(files.abandon()))? {
        Side::Outside(inmate) => {
            // What the guest uses is the owner's alone from here on.
            drop((prepared, listener));
            Ok(keeper::keep(&inmate, &files))
        }
        Side::Inside(door) => {
            let to_restore = prepared.snapshot.as_ref().filter(|_| purpose == Purpose::Sandbox);
            prepared.monitor.enclose(&prepared.vm, to_restore)?;
            let inside = door.close(&prepared.spec.state_dir)?;
            jail::filter::seal()?;
            let outside = Outside::Keeper(Mutex::new(inside.channel));
            Ok(run(Owner::new(prepared, inside.pid, outside), listener))
        }
    }
}

fn run(owner: Owner, listener: UnixListener) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let owner = Arc::new(owner);
    let code = runtime.block_on(end::live(owner, listener));
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
