//! One guest under QEMU.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::mpsc,
};

use omnirun_vmm_api::{Guest, MonitorError, Purpose, SnapshotFiles, Stats, VmSpec};
use serde_json::Value;

use super::{
    launch::{Handed, Launched, launch, said},
    process::Process,
    qmp::Qmp,
};

/// A guest and the process that runs it.
pub struct QemuGuest {
    process: Process,
    qmp: Qmp,
    port: Option<UnixStream>,
    purpose: Purpose,
    /// Keeps the thread that started the process.
    _keeper: mpsc::Sender<()>,
}

impl QemuGuest {
    /// Boots a guest, or restores one from the memory file.
    pub fn start(spec: &VmSpec, memory: Option<File>) -> Result<Self, MonitorError> {
        let pair = || {
            UnixStream::pair().map_err(|source| MonitorError::Process { what: "make sockets for", source })
        };
        let (qmp, qemu_qmp) = pair()?;
        let (port, qemu_port) = pair()?;
        let is_restored = memory.is_some();
        let handed =
            Handed { qmp: qemu_qmp.into(), port: qemu_port.into(), incoming: memory.map(OwnedFd::from) };
        let Launched { pid, complaints, keeper } = launch(spec, handed)?;
        let mut process = Process::new(pid)?;
        let up = Qmp::greet(qmp).and_then(|mut qmp| {
            if is_restored {
                qmp.wait_restored()?;
                // A guest is stopped for its snapshot, and comes back stopped.
                qmp.tell("cont", Value::Null)?;
            }
            Ok(qmp)
        });
        match up {
            Ok(qmp) => Ok(Self { process, qmp, port: Some(port), purpose: spec.purpose, _keeper: keeper }),
            Err(MonitorError::Control { source, .. }) => {
                let _ = process.kill();
                Err(MonitorError::Start { said: said(complaints), source })
            }
            Err(error) => {
                let _ = process.kill();
                Err(error)
            }
        }
    }
}

impl Guest for QemuGuest {
    fn take_port(&mut self) -> Option<UnixStream> {
        self.port.take()
    }

    fn ended(&self) -> Result<OwnedFd, MonitorError> {
        self.process.ended()
    }

    fn process_id(&self) -> Option<u32> {
        Some(self.process.id())
    }

    fn pause(&mut self) -> Result<(), MonitorError> {
        self.qmp.tell("stop", Value::Null).map(|_| ())
    }

    fn resume(&mut self) -> Result<(), MonitorError> {
        self.qmp.tell("cont", Value::Null).map(|_| ())
    }

    fn snapshot(&mut self, files: SnapshotFiles) -> Result<(), MonitorError> {
        if self.purpose != Purpose::Snapshot {
            let reason = "it was not started for a snapshot".to_owned();
            return Err(MonitorError::Refused { command: "snapshot", reason });
        }
        self.pause()?;
        self.qmp.give("memory", &files.memory)?;
        self.qmp.migrate_to("memory")
    }

    fn stats(&mut self) -> Result<Stats, MonitorError> {
        self.process.stats()
    }

    fn kill(&mut self) -> Result<Stats, MonitorError> {
        self.process.kill()
    }
}

impl Drop for QemuGuest {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}
