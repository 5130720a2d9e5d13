//! What a virtual machine is made of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{MemoryMib, Vcpus};

/// Which monitor a host wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MonitorChoice {
    /// The best one that works on this host.
    #[default]
    Auto,
    /// QEMU's microvm machine.
    Qemu,
    /// Our own on KVM. Refused where the host has no KVM.
    Kvm,
}

/// What a booted guest's memory is. A restored guest's is a private view of its snapshot either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryBacking {
    /// Anonymous: the kernel can give it large pages.
    #[default]
    Anonymous,
    /// A file in memory without a name (memfd_create(2)), as a device in another process would need it. Only with our own
    /// monitor.
    Memfd,
}

/// What a virtual machine is for, which decides what it may do to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// It will run a user's code: it may write no file at all.
    #[default]
    Sandbox,
    /// It is booted to be snapshotted: it may write its memory into one file that it is handed.
    Snapshot,
}

/// What a template consists of: SHA-256 digests in hexadecimal, as events name them. This is the JSON of
/// `templates/<name>/template.json` in a template store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateDigests {
    /// The template's name.
    pub name: String,
    /// Of the kernel.
    pub kernel: String,
    /// Of the initramfs, and so of the agent.
    pub initramfs: String,
    /// Of the root file system.
    pub root: String,
}

/// The files of a template, read-only and shared by all guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFiles {
    /// The kernel as an ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// The initramfs with the agent as `/init`.
    pub initramfs: PathBuf,
    /// The root file system, a squashfs.
    pub root: PathBuf,
}

/// One virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// What these are.
    pub template: TemplateDigests,
    /// Its files.
    pub files: ImageFiles,
    /// Its processors.
    pub vcpus: Vcpus,
    /// Its memory.
    pub memory: MemoryMib,
    /// What that is.
    pub backing: MemoryBacking,
    /// A directory of its own, that the monitor may use for mount points and the owner removes.
    pub state_dir: PathBuf,
    /// What it is for.
    pub purpose: Purpose,
}

/// A network device of a guest. Only with our own monitor, and only of a guest that is booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The name of a tap interface of the host, which exists and which nobody else is attached to.
    pub tap: String,
    /// The device's address.
    pub mac: MacAddress,
}

/// An Ethernet address (IEEE 802, EUI-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether it is one device's: neither a group's nor all zeros.
    pub fn is_of_one(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}
