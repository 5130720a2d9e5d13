//! The jail of a process that runs a guest: what is left of the host for whoever breaks out of the guest into its
//! monitor. A user id of its own without capabilities, namespaces of its own (mount, pid, network, ipc, uts), an empty
//! read-only root, limits, and for each kind of thread a list of system calls; any other one ends the process.
//!
//! ```text
//! divide ── outside ─ the keeper: small, unjailed, tidies up, is told what to do by the inmate
//!        └─ inside ── opens what it will need ─ Door::close ─ filter::seal ─ threads, guest
//! ```
//!
//! Reading order: [`process`] (two of one), [`root`] (what the inmate sees), [`rights`] (what it may), [`lists`] (which
//! system calls), [`filter`] (how they are refused), [`cgroup`] (how much it may take).
//!
//! Only root can make all of it. For anybody else there is the filter, and as many of the limits as need no rights.

pub mod cgroup;

pub mod filter;

pub mod lists;

pub mod process;

mod rights;

mod root;

use std::io;

use omnirun_vmm_api::{MemoryMib, MonitorError, Purpose, Vcpus};

pub use process::{Event, Inmate, Inside, Side, divide};

/// The first of the user and group ids for guests; a guest's is this plus the process id of its keeper, so that no two
/// living guests share one. Process ids are below 2^22 (proc(5), pid_max). System tools hand out ids far below.
const FIRST_ID: u32 = 1_900_000_000;

/// How a process is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    /// Everything above, under this user and group id.
    Own(u32),
    /// Started by somebody who is not root.
    Same,
}

impl User {
    /// The strictest that this process can make.
    fn strictest() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Own(FIRST_ID + std::process::id())
        } else {
            Self::Same
        }
    }
}

/// How large a guest is, which says how much of the host its process may take.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Its processors.
    pub vcpus: Vcpus,
    /// Its memory.
    pub memory: MemoryMib,
    /// Whether its memory will be written to a file.
    pub purpose: Purpose,
}

fn step<T>(step: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, MonitorError> {
    result.map_err(|source| MonitorError::Jail { step, source: source.into() })
}
