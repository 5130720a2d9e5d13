//! Template snapshots: a state file, versioned and with a checksum, and the memory beside it, which is mapped and not
//! read, so that a restore takes as long for a large guest as for a small one.
//!
//! What is refused says which file, why, and what to do. [`codec`] has the bytes.

pub mod codec;

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::FileExt,
};

use omnirun_vmm_api::{Bytes, MemoryMib, MonitorError, SnapshotFiles, Vcpus, VmSpec};
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

/// Reads the state, and checks that it is of this shape and that the memory is the one that belongs to it.
pub fn read(files: &SnapshotFiles, spec: &VmSpec) -> Result<State, MonitorError> {
    let mut bytes = Vec::new();
    let read = (&files.state).take(STATE_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|error| unusable(files, STATE, &error.to_string()))?;
    let state: State = codec::decode(&bytes).map_err(|broken| unusable(files, STATE, &broken.to_string()))?;
    let is_of_shape = state.vcpus == spec.vcpus && state.memory == spec.memory;
    if !is_of_shape || state.processors.len() != usize::from(spec.vcpus.0) {
        return Err(unusable(files, STATE, "it is of a guest with other processors or memory"));
    }
    check_memory(&files.memory, state.memory, state.id).map_err(|reason| unusable(files, MEMORY, reason))?;
    Ok(state)
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
pub fn check_processor(made_on: &[u32], here: &[u32], files: &SnapshotFiles) -> Result<(), MonitorError> {
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
    use std::io::Seek;

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

    fn files_with(state: &[u8]) -> (SnapshotFiles, VmSpec) {
        let mut file = tempfile::tempfile().expect("a file for the test");
        file.write_all(state).expect("there is room");
        file.rewind().expect("it is a file");
        let memory = tempfile::tempfile().expect("a file for the test");
        let files = SnapshotFiles { memory, state: file, directory: "store/snapshot".into() };
        let nowhere = ImageFiles { kernel: "k".into(), initramfs: "i".into(), root: "r".into() };
        let spec = VmSpec {
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
