//! The owner process of one guest, the role `omnirun vmm`: started by the worker, outlives it, and alone talks to the
//! guest. It runs the monitor, keeps the one connection to the agent, enforces the end time, and leaves nothing but a
//! few numbers when the guest has ended. Where the monitor is in this very process, the process divides: the owner goes
//! into a jail with the monitor, and a keeper stays outside.
//!
//! Its messages are in `omnirun_vmm_api::owner`. Reading order: [`main`], [`owner`] (what it knows), [`stopwatch`] (how
//! long its sandbox has run), [`start`] (boot or restore), [`agent`] (the connection), [`serve`] (the socket), [`snapshot`],
//! [`end`] (the wait for an end, and the teardown); then [`outside`] (what is done to the host's files), [`shelf`] (a snapshot's
//! place), [`keeper`], and [`voice`] (what standard error hears).

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

mod stopwatch;

mod voice;

#[cfg(test)]
mod double;

#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Read},
    os::unix::{fs::DirBuilderExt, net::UnixListener},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use omnirun_vmm::{
    choose,
    kvm::jail::{self, Shape, Side, process::Door},
    store::Template,
};
use omnirun_vmm_api::{
    MonitorError, Place, Purpose, SnapshotFiles, VmSpec,
    owner::{OwnerSpec, StartFrom},
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use outside::{Files, Outside};
use owner::{Owner, Prepared};
use shelf::Shelf;
use voice::{Voice, with_causes};

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

/// Threads of the runtime that may wait for the guest or the disk: one waits for the guest's end for as long as it lives, and the
/// others are shared by the requests, which take turns at the guest anyway.
const BLOCKING_THREADS_MAX: usize = 16;
/// Stack of the runtime's threads: a boot or a restore, and requests. The default of 2 MiB may come as one large page.
const STACK_BYTES: usize = 512 << 10;

/// Runs the role: reads an [`OwnerSpec`] from standard input, and returns when its guest has ended. The process must
/// have one thread.
pub fn main() -> ExitCode {
    let started = clock::Started::now();
    let spec = match read_spec() {
        Ok(spec) => spec,
        Err(error) => {
            Voice::nameless().complain(&*error);
            return ExitCode::from(EXIT_BAD_SPEC);
        }
    };
    let voice = Voice::of(&spec.vm_id);
    let fail = |error: AnyError, code| {
        voice.complain(&*error);
        code
    };
    match prepare(spec, started, &voice) {
        Ok((prepared, files, listener)) => take_place(prepared, files, listener, &voice)
            .unwrap_or_else(|error| fail(error, ExitCode::FAILURE)),
        Err(error) => fail(error, ExitCode::from(EXIT_BAD_SPEC)),
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn read_spec() -> Result<OwnerSpec, AnyError> {
    forbid_core_files()?;
    let mut text = Vec::new();
    io::stdin().take(SPEC_BYTES_MAX).read_to_end(&mut text)?;
    let spec: OwnerSpec = serde_json::from_slice(&text)?;
    owner::check(&spec)?;
    Ok(spec)
}

/// Opens everything that has a path. What fails leaves nothing behind.
fn prepare(
    spec: OwnerSpec,
    started: clock::Started,
    voice: &Voice,
) -> Result<(Prepared, Files, UnixListener), AnyError> {
    let template = Template::open(&spec.store, &spec.template)?;
    let mut monitor = choose(spec.monitor)?;
    spec.network.iter().try_for_each(|network| monitor.attach(network))?;
    let shelf = Shelf::new(&template, &*monitor, spec.vcpus, spec.memory)?;
    let snapshot = find_snapshot(&spec, &shelf, voice)?;
    let snapshot_key = shelf.key().to_owned();
    let files = Files::new(spec.state_dir.clone(), shelf, spec.purpose);
    // A process that leads its session already cannot make another one, and need not.
    let _ = rustix::process::setsid();
    let listener = move_in(&spec.state_dir).inspect_err(|_| files.move_out())?;
    let vm = machine(&spec, &template);
    let template = template.digests;
    Ok((Prepared { spec, vm, template, snapshot_key, snapshot, monitor, started }, files, listener))
}

/// What the guest is made of.
fn machine(spec: &OwnerSpec, template: &Template) -> VmSpec {
    VmSpec {
        template: template.digests.clone(),
        files: template.files.clone(),
        vcpus: spec.vcpus,
        memory: spec.memory,
        backing: spec.backing,
        state_dir: spec.state_dir.clone(),
        purpose: spec.purpose,
    }
}

/// The files of the snapshot to start from, or to be made.
fn find_snapshot(spec: &OwnerSpec, shelf: &Shelf, voice: &Voice) -> Result<Option<SnapshotFiles>, AnyError> {
    let found = match (spec.purpose, spec.start_from) {
        (Purpose::Snapshot, _) => return Ok(Some(shelf.make()?)),
        (Purpose::Sandbox, StartFrom::Boot) => return Ok(None),
        (Purpose::Sandbox, StartFrom::Auto) if spec.network.is_some() => return Ok(None),
        (Purpose::Sandbox, StartFrom::Auto | StartFrom::Snapshot) => shelf.open(),
    };
    match found {
        Err(error @ MonitorError::BadFile { .. }) if spec.start_from == StartFrom::Auto => {
            voice.say(&format!("the snapshot is removed, and the guest booted: {}", with_causes(&error)));
            shelf.discard();
            Ok(None)
        }
        found => Ok(found?),
    }
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the state directory {path}: let this user make it and write there")]
struct StateError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Makes the state directory, with the socket.
fn move_in(state_dir: &std::path::Path) -> Result<UnixListener, StateError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    made.and_then(|()| serve::listen(state_dir))
        .map_err(|source| StateError { path: state_dir.to_owned(), source })
}

/// Goes to where the guest will run, and lives with it there. A keeper lives here.
fn take_place(
    prepared: Prepared,
    files: Files,
    listener: UnixListener,
    voice: &Voice,
) -> Result<ExitCode, AnyError> {
    if prepared.monitor.place() == Place::Child {
        let outside = Outside::Here(Box::new(files));
        return Ok(run(Owner::new(prepared, std::process::id(), outside, voice.clone()), listener));
    }
    let VmSpec { vcpus, memory, purpose, .. } = prepared.vm;
    let shape = Shape { vcpus, memory, purpose };
    let (said, say) = io::pipe().inspect_err(|_| files.move_out())?;
    let divided = jail::divide(&prepared.spec.vm_id, shape, &prepared.vm.files.root);
    match divided.inspect_err(|_| files.move_out())? {
        Side::Outside(inmate) => {
            // What the guest uses is the owner's alone from here on.
            drop((prepared, listener, say));
            let repeating = voice.clone().repeat(said);
            let code = keeper::keep(&inmate, &files, voice);
            match repeating {
                // Its last words: the pipe has ended with it.
                Ok(repeating) => drop(repeating.join()),
                Err(error) => voice.complain(&error),
            }
            Ok(code)
        }
        Side::Inside(door) => {
            drop(said);
            voice::speak_into(&say)?;
            drop(say);
            let lived = live_inside(prepared, listener, door);
            Ok(lived.unwrap_or_else(|error| {
                Voice::to_keeper().complain(&*error);
                ExitCode::FAILURE
            }))
        }
    }
}

/// Goes into the jail, and lives there.
fn live_inside(mut prepared: Prepared, listener: UnixListener, door: Door) -> Result<ExitCode, AnyError> {
    let to_restore = prepared.snapshot.as_ref().filter(|_| prepared.vm.purpose == Purpose::Sandbox);
    prepared.monitor.enclose(&prepared.vm, to_restore)?;
    let inside = door.close(&prepared.spec.state_dir)?;
    jail::filter::seal()?;
    let outside = Outside::Keeper(Mutex::new(inside.channel));
    Ok(run(Owner::new(prepared, inside.pid, outside, Voice::to_keeper()), listener))
}

fn run(owner: Owner, listener: UnixListener) -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).max_blocking_threads(BLOCKING_THREADS_MAX).thread_stack_size(STACK_BYTES);
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            owner.voice.complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let owner = Arc::new(owner);
    let code = runtime.block_on(end::live(owner, listener));
    // A relay may still be copying for somebody who does not read; the guest it copies from is gone.
    runtime.shutdown_background();
    code
}

/// Users' data passes through this process, so it must never be written to a core file. A limit of 1, not 0: it is
/// less than any core file, and it is the one value that the kernel also obeys where cores go to a program (core(5)).
fn forbid_core_files() -> Result<(), rustix::io::Errno> {
    setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
