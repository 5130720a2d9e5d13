//! The monitor that runs `qemu-system-x86_64 -M microvm` as its child: jailed, without network, told what to do over
//! QMP, speaking to the agent over one virtio port. Nothing that the guest prints goes anywhere.
//!
//! Reading order: [`arguments`] (the command line), [`jail`] (what the process sees of the host), [`launch`], [`qmp`],
//! [`process`] (counting and reaping), and [`guest`], which puts them together.

mod arguments;

mod jail;

mod launch;

mod qmp;

mod process;

mod guest;

mod tsc;

use std::path::Path;

use omnirun_vmm_api::{Guest, MemoryBacking, Monitor, MonitorError, SnapshotFiles, VmSpec};

use guest::QemuGuest;

use crate::edition;

/// Where Debian's package puts it. The jail shows /usr and nothing else of the host's programs.
const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";

/// QEMU on this host.
#[derive(Debug)]
pub struct Qemu(());

impl Qemu {
    /// Finds QEMU.
    pub fn find() -> Result<Self, MonitorError> {
        if Path::new(PROGRAM).exists() {
            return Ok(Self(()));
        }
        let reason = format!("there is no {PROGRAM}: install the package qemu-system-x86");
        Err(MonitorError::Unavailable { monitor: "qemu", reason })
    }
}

impl Monitor for Qemu {
    fn identity(&self) -> Result<String, MonitorError> {
        Ok(format!("qemu.{}", edition::of(Path::new(PROGRAM))?))
    }

    fn start(&self, spec: &VmSpec) -> Result<Box<dyn Guest>, MonitorError> {
        if spec.backing == MemoryBacking::Memfd {
            let reason = "memory in a file without a name is only for the kvm monitor".to_owned();
            return Err(MonitorError::Refused { command: "start", reason });
        }
        Ok(Box::new(QemuGuest::start(spec, None)?))
    }

    fn restore(&self, spec: &VmSpec, files: SnapshotFiles) -> Result<Box<dyn Guest>, MonitorError> {
        Ok(Box::new(QemuGuest::start(spec, Some(files.memory))?))
    }
}
