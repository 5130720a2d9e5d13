//! Template snapshots: a state file, versioned and with a checksum, and the memory beside it, which is mapped and not
//! read, so that a restore takes as long for a large guest as for a small one.
//!
//! What is refused says which file, why, and what to do. [`codec`] has the bytes.

pub mod codec;

use std::{error::Error, fs::File, io::Write, os::unix::fs::FileExt};

use omnirun_vmm_api::{Bytes, MemoryMib, MonitorError, SnapshotFiles, TemplateDigests, Vcpus, VmSpec};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::{
    bus::SavedDevices, failed, layout, machine::MachineState, memory::Memory, vcpu::state::VcpuState,
};

pub use codec::VERSION;

/// The state file's name, for messages.
pub const STATE: &str = "state";
/// The memory file's.
pub const MEMORY: &str = "memory";
/// Longest state file: eight processors with every feature take less than a tenth of it.
const STATE_BYTES_MAX: u64 = 1 << 20;
/// First bytes of the page that follows the memory; the snapshot's id follows them.
const TRAILER: &[u8; 16] = b"OMNIRUN-MEMORY-1";
const REMEDY: &str = "remove the snapshot's directory, and the next one is made anew";

/// Which two files belong together.
pub type Id = [u8; 16];

/// All of a guest but its memory.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// Also at the end of the memory file.
    pub id: Id,
    /// What it was booted from.
    pub template: TemplateDigests,
    /// Its processors.
    pub vcpus: Vcpus,
    /// Its memory.
    pub memory: MemoryMib,
    /// The host's processor.
    pub fingerprint: Vec<u32>,
    /// Each of its processors.
    pub processors: Vec<VcpuState>,
    /// What KVM keeps.
    pub machine: MachineState,
    /// Its devices.
    pub devices: SavedDevices,
}

/// A snapshot that a guest can be made of here: its state, and its memory, mapped for that guest alone.
pub struct Loaded {
    /// All but the memory.
    pub state: State,
    /// The memory.
    pub memory: Memory,
}

/// An id that no other snapshot has.
pub fn new_id() -> Id {
    let mut id = [0; 16];
    // Requests this short are never cut (getrandom(2)); before the kernel has entropy they wait.
    while getrandom(&mut id, GetRandomFlags::empty()).is_err() {}
    id
}

/// A refusal of one of the files.
pub fn unusable(files: &SnapshotFiles, name: &str, reason: &str) -> MonitorError {
    MonitorError::BadFile { path: files.directory.join(name), reason: format!("{reason}: {REMEDY}") }
}

/// What KVM refuses of a state that is whole: a register or a rate, say, that this host does not have.
pub fn refused(files: &SnapshotFiles, error: &MonitorError) -> MonitorError {
    let because = |error: &dyn Error| error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    unusable(files, STATE, &format!("{error}{}", because(error)))
}

/// Writes both files, the memory first: a state file that is whole says that all is.
pub fn write(
    state: &State,
    memory: &Memory,
    page_map: Option<&File>,
    files: &SnapshotFiles,
) -> Result<(), MonitorError> {
    let disk = failed("write the snapshot of");
    memory.save(&files.memory, page_map).map_err(&disk)?;
    mark_memory(&files.memory, state.memory, state.id).map_err(&disk)?;
    let bytes = codec::encode(state).map_err(|broken| disk(std::io::Error::other(broken)))?;
    (&files.state).write_all(&bytes).map_err(&disk)
}

/// Reads a snapshot, and checks that it can go on here. The files are as they were afterwards, their positions included.
pub fn load(files: &SnapshotFiles, spec: &VmSpec, here: &[u32]) -> Result<Loaded, MonitorError> {
    let state = read(files, spec)?;
    check_processor(&state.fingerprint, here, files)?;
    Ok(Loaded { state, memory: Memory::of_file(spec.memory, &files.memory)? })
}

/// Reads the state, and checks that it is of this template and shape and that the memory is the one that belongs to it.
fn read(files: &SnapshotFiles, spec: &VmSpec) -> Result<State, MonitorError> {
    let bytes = read_state(&files.state).map_err(|error| unusable(files, STATE, &error.to_string()))?;
    let state: State = codec::decode(&bytes).map_err(|broken| unusable(files, STATE, &broken.to_string()))?;
    if state.template != spec.template {
        return Err(unusable(files, STATE, "it is of another template, or of other files of this one"));
    }
    let is_of_shape = state.vcpus == spec.vcpus && state.memory == spec.memory;
    if !is_of_shape || state.processors.len() != usize::from(spec.vcpus.0) {
        return Err(unusable(files, STATE, "it is of a guest with other processors or memory"));
    }
    check_memory(&files.memory, state.memory, state.id).map_err(|reason| unusable(files, MEMORY, reason))?;
    Ok(state)
}

fn read_state(file: &File) -> std::io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(STATE_BYTES_MAX);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn mark_memory(file: &File, memory: MemoryMib, id: Id) -> std::io::Result<()> {
    let Bytes(end) = memory.bytes();
    let mut trailer = [0; layout::PAGE as usize];
    trailer[..16].copy_from_slice(TRAILER);
    trailer[16..32].copy_from_slice(&id);
    file.write_all_at(&trailer, end)
}

fn check_memory(file: &File, memory: MemoryMib, id: Id) -> Result<(), &'static str> {
    let Bytes(end) = memory.bytes();
    let length = file.metadata().map_err(|_| "it cannot be looked at")?.len();
    if length != end + layout::PAGE {
        return Err("it is cut short, or of another guest");
    }
    let mut trailer = [0; 32];
    file.read_exact_at(&mut trailer, end).map_err(|_| "its end cannot be read")?;
    match trailer.split_first_chunk() {
        Some((TRAILER, found)) if found == id => Ok(()),
        Some((TRAILER, _)) => Err("it belongs to another state file"),
        _ => Err("it is of another version"),
    }
}

/// A guest goes on only on a processor like the one that it was stopped on.
fn check_processor(made_on: &[u32], here: &[u32], files: &SnapshotFiles) -> Result<(), MonitorError> {
    if made_on == here {
        return Ok(());
    }
    Err(unusable(
        files,
        STATE,
        "it was made on another processor, or under a kernel that offers other features",
    ))
}

#[cfg(test)]
mod tests {
    use omnirun_vmm_api::{ImageFiles, MemoryBacking, Purpose};

    use super::*;

    #[test]
    fn a_memory_file_is_taken_only_whole_and_with_its_own_state() {
        let size = MemoryMib(1);
        let file = tempfile::tempfile().expect("a file for the test");
        mark_memory(&file, size, [7; 16]).expect("there is room");
        assert_eq!(check_memory(&file, size, [7; 16]), Ok(()));
        assert_eq!(check_memory(&file, size, [8; 16]), Err("it belongs to another state file"));
        assert_eq!(check_memory(&file, MemoryMib(2), [7; 16]), Err("it is cut short, or of another guest"));
        file.write_all_at(b"OMNIRUN-MEMORY-2", 1 << 20).expect("there is room");
        assert_eq!(check_memory(&file, size, [7; 16]), Err("it is of another version"));
        file.set_len(1 << 20).expect("it is ours");
        assert_eq!(check_memory(&file, size, [7; 16]), Err("it is cut short, or of another guest"));
    }

    fn template(name: &str) -> TemplateDigests {
        let [kernel, initramfs, root] = ["k", "i", "r"].map(|file| format!("{name}-{file}"));
        TemplateDigests { name: name.to_owned(), kernel, initramfs, root }
    }

    /// A state of a guest with one processor and devices that it never touched. What KVM keeps is zeros.
    fn state_of(template: &TemplateDigests) -> Vec<u8> {
        let registers = serde_json::json!({
            "device_features_select": 0, "driver_features_select": 0, "driver_features": 0, "queue_select": 0, "status": 0,
            "interrupts": 0, "rings": [],
        });
        let device = serde_json::json!({ "registers": registers, "queues": [], "device": [] });
        let processor = serde_json::json!({
            "cpuid": [], "tsc_khz": 1, "regs": [], "sregs": [], "xsave": [], "xcrs": [], "debug": [], "lapic": [],
            "msrs": [], "events": [], "mp": [],
        });
        let state = serde_json::json!({
            "id": vec![7; 16], "template": template, "vcpus": 1, "memory": 128, "fingerprint": [1, 2],
            "processors": [processor], "machine": { "irqchips": [[], [], []], "pit": [], "clock": [] },
            "devices": [device, device, device],
        });
        codec::encode(&state).expect("it is plain data")
    }

    #[test]
    fn a_snapshot_of_another_template_or_of_other_files_of_it_is_refused() {
        let newer = TemplateDigests { initramfs: "a newer agent".to_owned(), ..template("a") };
        for (made_of, reason) in [
            (template("a"), "store/snapshot/memory: it is cut short"),
            (template("b"), "store/snapshot/state: it is of another template, or of other files of this one"),
            (newer, "store/snapshot/state: it is of another template, or of other files of this one"),
        ] {
            let (files, spec) = files_with(&state_of(&made_of));
            let said = load(&files, &spec, &[1, 2]).err().expect("it is refused").to_string();
            assert!(said.contains(reason) && said.ends_with(REMEDY), "{said}");
        }
    }

    #[test]
    fn a_snapshot_that_was_read_can_be_read_again() {
        let (files, spec) = files_with(&state_of(&template("a")));
        mark_memory(&files.memory, spec.memory, [7; 16]).expect("there is room");
        for _ in 0..2 {
            assert_eq!(load(&files, &spec, &[1, 2]).expect("it is whole").state.id, [7; 16]);
        }
    }

    #[test]
    fn what_kvm_refuses_of_a_state_is_said_with_the_path_and_the_remedy() {
        let (files, _) = files_with(&[]);
        let source = std::io::Error::other("register 0x8b is refused");
        let said = refused(&files, &MonitorError::Kvm { step: "set registers of", source }).to_string();
        let expected = format!(
            "cannot use store/snapshot/state: cannot set registers of the guest: register 0x8b is refused: {REMEDY}"
        );
        assert_eq!(said, expected);
    }

    fn files_with(state: &[u8]) -> (SnapshotFiles, VmSpec) {
        let mut file = tempfile::tempfile().expect("a file for the test");
        file.write_all(state).expect("there is room");
        let memory = tempfile::tempfile().expect("a file for the test");
        let files = SnapshotFiles { memory, state: file, directory: "store/snapshot".into() };
        let nowhere = ImageFiles { kernel: "k".into(), initramfs: "i".into(), root: "r".into() };
        let spec = VmSpec {
            template: template("a"),
            files: nowhere,
            vcpus: Vcpus(1),
            memory: MemoryMib(128),
            backing: MemoryBacking::Anonymous,
            state_dir: "s".into(),
            purpose: Purpose::Sandbox,
        };
        (files, spec)
    }

    #[test]
    fn what_is_refused_is_named_with_its_path_the_reason_and_the_remedy() {
        let whole = codec::encode(&"not a state, and whole").expect("it is plain data");
        let mut other = whole.clone();
        other[8] = 9;
        for (bytes, reason) in [
            (&whole[..whole.len() - 1], "bytes long instead of"),
            (&whole[..10], "bytes long instead of"),
            (&other[..], "it is of version 9, and this program reads version"),
            (&whole[..], "it makes no sense"),
            (&[], "it is no snapshot"),
        ] {
            let (files, spec) = files_with(bytes);
            let said = read(&files, &spec).err().expect("it is refused").to_string();
            assert!(said.contains("store/snapshot/state") && said.contains(reason), "{said}");
            assert!(said.ends_with(REMEDY), "{said}");
        }
    }

    #[test]
    fn another_processor_is_refused_with_the_path_and_the_remedy() {
        let (files, _) = files_with(&[]);
        assert!(check_processor(&[1, 2], &[1, 2], &files).is_ok());
        let said = check_processor(&[1, 2], &[1, 3], &files).expect_err("it is refused").to_string();
        assert!(said.contains("store/snapshot/state") && said.contains("another processor"), "{said}");
        assert!(said.ends_with(REMEDY), "{said}");
    }

    #[test]
    fn no_two_snapshots_have_one_id() {
        assert_ne!(new_id(), new_id());
    }
}
