//! The monitor's process: watching, counting, ending and reaping it.

use std::{fs, io, os::fd::OwnedFd};

use omnirun_vmm_api::{Bytes, Millis, MonitorError, Stats};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};

/// proc(5): times in /proc/PID/stat are in USER_HZ, which is 100 on every x86 kernel.
const MILLIS_PER_TICK: u64 = 10;

/// A child process that has not been reaped, or the last that was counted of it.
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    /// What it used in all; known once it has been reaped.
    reaped: Option<Stats>,
}

fn failed(what: &'static str) -> impl Fn(Errno) -> MonitorError {
    move |errno| MonitorError::Process { what, source: io::Error::from(errno) }
}

impl Process {
    /// Takes charge of a child.
    pub fn new(pid: u32) -> Result<Self, MonitorError> {
        let pid =
            i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| failed("name")(Errno::RANGE))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed("watch"))?;
        Ok(Self { pid, pidfd, reaped: None })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Readable when it has ended.
    pub fn ended(&self) -> Result<OwnedFd, MonitorError> {
        self.pidfd.try_clone().map_err(|source| MonitorError::Process { what: "watch", source })
    }

    /// What it has used.
    pub fn stats(&self) -> Result<Stats, MonitorError> {
        if let Some(stats) = self.reaped {
            return Ok(stats);
        }
        let path = format!("/proc/{}/stat", self.id());
        let text =
            fs::read_to_string(path).map_err(|source| MonitorError::Process { what: "count", source })?;
        Ok(parse(&text))
    }

    /// Kills and reaps it. Its last numbers are read between the two, while it is a zombie.
    pub fn kill(&mut self) -> Result<Stats, MonitorError> {
        if let Some(stats) = self.reaped {
            return Ok(stats);
        }
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(failed("kill")(error)),
        }
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        let stats = Stats { resident: Bytes(0), ..self.stats().unwrap_or_default() };
        self.wait(WaitIdOptions::EXITED)?;
        self.reaped = Some(stats);
        Ok(stats)
    }

    fn wait(&self, how: WaitIdOptions) -> Result<(), MonitorError> {
        loop {
            match waitid(WaitId::Pid(self.pid), how) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("wait for")(error)),
            }
        }
    }
}

/// proc(5), /proc/PID/stat: after the name in parentheses come state (field 3) and the rest; user time is field 14,
/// system time 15, both with all threads, also those that ended; resident pages are field 24.
fn parse(stat: &str) -> Stats {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    Stats {
        vcpu: Millis((field(14) + field(15)) * MILLIS_PER_TICK),
        resident: Bytes(field(24) * 4096),
        ..Stats::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 1 1 0 -1 0 0 0 0 0 12 30 0 0 20 0 1 0 99 1000 5 0";
        let stats = parse(stat);
        assert_eq!((stats.vcpu, stats.resident), (Millis(420), Bytes(5 * 4096)));
        assert_eq!(parse("").vcpu, Millis(0));
    }
}
