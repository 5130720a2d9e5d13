//! Ending a guest: asked of its owner process, and done to it where that does not answer.

use std::io;
use std::time::Duration;

use omnirun_vmm_api::owner::EndReason;
use rustix::process::{Signal, kill_process};

use super::Guests;
use crate::place::VmId;

/// How long an owner process may take to end its guest before it is ended itself, its monitor with it.
const END_WAIT_MAX: Duration = Duration::from_secs(15);

impl Guests {
    /// Ends a guest and returns when all its processes are gone. Twice is once.
    pub async fn end(&self, vm: &VmId, reason: EndReason) -> io::Result<()> {
        let is_gone = |guests: &Self| guests.get(vm).is_none_or(|guest| !guest.life.is_alive()).then_some(());
        let connected = self.until(END_WAIT_MAX, |guests| match guests.get(vm) {
            Some(guest) if guest.life.is_alive() => guest.owner.map(Some),
            _ => Some(None),
        });
        let is_ending = match connected.await {
            Some(None) => return Ok(()),
            Some(Some(owner)) => owner.kill(reason, END_WAIT_MAX).await.is_ok(),
            None => false,
        };
        let patience = if is_ending { END_WAIT_MAX } else { Duration::from_secs(1) };
        if self.until(patience, is_gone).await.is_some() {
            return Ok(());
        }
        let Some(pid) = self.get(vm).and_then(|guest| guest.owner_pid) else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the owner process was never reached"));
        };
        tracing::error!(vm = %vm, "an owner process did not end its guest and is ended with it");
        // The number is still the owner's: its lock is held.
        kill_process(pid, Signal::KILL)?;
        self.until(END_WAIT_MAX, is_gone).await.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}
