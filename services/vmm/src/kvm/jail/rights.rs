//! What an inmate may: limits, a user of its own, no capability, no new privilege, death together with its keeper.

use omnirun_vmm_api::MonitorError;
use rustix::{
    io::Errno,
    process::{
        DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit,
    },
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{User, step};

/// Descriptors: the guest's, and two for each request that the worker relays at a time.
const OPEN_FILES_MAX: u64 = 1024;
/// Threads: processors, devices, the runtime's own and those that wait for the guest.
pub const THREADS_MAX: u64 = 128;

/// Not 0 for cores: where core files go to a program, 1 is the only value that the kernel obeys (core(5)).
const LIMITS: [(Resource, u64); 4] = [
    (Resource::Core, 1),
    (Resource::Nofile, OPEN_FILES_MAX),
    (Resource::Memlock, 64 << 10),
    (Resource::Msgqueue, 0),
];

/// Gives up every right. The calling thread must be the only one of its process.
pub fn give_up(user: User) -> Result<(), MonitorError> {
    let limit = |(resource, value)| {
        // A limit that is lower already cannot be raised without rights, and need not be.
        let value = rustix::process::getrlimit(resource).maximum.map_or(value, |old| old.min(value));
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
    };
    step("set limits", LIMITS.into_iter().try_for_each(limit))?;
    if let User::Own(id) = user {
        // Threads are counted per user, and only a user of its own has none already.
        step("set limits", limit((Resource::Nproc, THREADS_MAX)))?;
        step("give up capabilities", drop_bounding_set())?;
        change_user(id)?;
    }
    let none = CapabilitySet::empty();
    let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
    step("give up capabilities", set_capabilities(None, nothing))?;
    step("give up capabilities", clear_ambient_capability_set())?;
    step("forbid new privileges", set_no_new_privs(true))?;
    // After the change of the user, which resets both.
    step("forbid to be read", set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    step("die with the keeper", set_parent_process_death_signal(Some(Signal::KILL)))
}

fn change_user(id: u32) -> Result<(), MonitorError> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    step("give up groups", set_thread_groups(&[]))?;
    step("change the group", set_thread_res_gid(gid, gid, gid))?;
    step("change the user", set_thread_res_uid(uid, uid, uid))
}

/// All that the kernel knows; it refuses the first number that it does not.
fn drop_bounding_set() -> Result<(), Errno> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Err(Errno::INVAL) if number > 0 => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}
