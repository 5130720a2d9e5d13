//! The thread that moves bytes of the agent port, and frames, when the host's side changes.

use std::{mem, os::fd::AsFd, sync::Arc};

use omnirun_vmm_api::MonitorError;
use rustix::event::{PollFd, PollFlags, poll};

use super::{Bus, CONSOLE, Mode, NET, locked};
use crate::kvm::{
    ended::{End, Ended},
    failed,
    jail::filter::ThreadFilters,
    program,
    tap::Tap,
    vcpu::STACK_BYTES,
    virtio::net::Net,
};

/// Starts the thread.
pub fn start(
    bus: &Arc<Bus>,
    ended: &Arc<Ended>,
    filters: Option<&Arc<ThreadFilters>>,
) -> Result<std::thread::JoinHandle<()>, MonitorError> {
    let (bus, ended, filters) = (bus.clone(), ended.clone(), filters.cloned());
    std::thread::Builder::new()
        .name("devices".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || match filters.map_or(Ok(()), |filters| filters.devices.apply()) {
            Ok(()) => bus.watch(&ended),
            Err(error) => ended.note(End::Kvm(error.to_string())),
        })
        .map_err(failed("start a thread"))
}

impl Bus {
    /// What the thread does, to its end.
    fn watch(&self, ended: &Ended) {
        let mut has_run = false;
        loop {
            let mode = *locked(&self.mode);
            if mode == Mode::Running && !mem::replace(&mut has_run, true) {
                // The start is over, and nobody waits for this thread.
                program::forget_start();
            }
            let (host, tap) = match mode {
                Mode::Closing => return,
                Mode::Paused => (None, None),
                Mode::Running => (locked(&self.console).device().watch(), self.watch_tap()),
            };
            let mut fds = vec![
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(ended.event(), PollFlags::IN),
            ];
            fds.extend(host.iter().map(|(host, interest)| {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, interest.input);
                flags.set(PollFlags::OUT, interest.output);
                PollFd::from_borrowed_fd(host.as_fd(), flags)
            }));
            fds.extend(tap.iter().map(|(tap, flags)| PollFd::from_borrowed_fd(tap.as_fd(), *flags)));
            // A signal interrupts it; then it is looked at again.
            let _ = poll(&mut fds, None);
            if fds[0].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            }
            if fds[1].revents().contains(PollFlags::IN) {
                // Whoever waits for the guest at the other end of its port need not wait any longer.
                locked(&self.console).device_mut().close();
                return;
            }
            let mut happened = fds[2..].iter().map(PollFd::revents);
            let at_host = host.as_ref().and_then(|_| happened.next()).unwrap_or(PollFlags::empty());
            let at_tap = tap.as_ref().and_then(|_| happened.next()).unwrap_or(PollFlags::empty());
            if let Err(end) = self.host_changed(at_host).and_then(|()| self.tap_changed(at_tap)) {
                ended.note(end);
            }
        }
    }

    /// The tap and what to watch it for; its end is always of interest.
    fn watch_tap(&self) -> Option<(Arc<Tap>, PollFlags)> {
        let net = locked(self.net.as_ref()?);
        // What wakes this thread at its end says that there is something to read, or that is urgent (tun.c, sock_def_readable); nothing ever
        // is urgent, so that asking for it costs nothing while there is no room.
        let mut flags = PollFlags::PRI;
        flags.set(PollFlags::IN, net.device().has_room());
        Some((net.device().wire().clone(), flags))
    }

    fn host_changed(&self, happened: PollFlags) -> Result<(), End> {
        if happened.is_empty() {
            return Ok(());
        }
        let mut console = locked(&self.console);
        if *locked(&self.mode) != Mode::Running {
            return Ok(());
        }
        let has_gone = happened.intersects(PollFlags::HUP | PollFlags::ERR);
        let progress = console.serve(self.memory.ram(), |console, queues, ram| {
            if has_gone { console.hang_up(queues, ram) } else { console.pump(queues, ram) }
        })?;
        self.interrupt(CONSOLE, progress);
        Ok(())
    }

    fn tap_changed(&self, happened: PollFlags) -> Result<(), End> {
        let Some(net) = &self.net else { return Ok(()) };
        let mut net = locked(net);
        if *locked(&self.mode) != Mode::Running {
            return Ok(());
        }
        if happened.contains(PollFlags::IN) {
            let progress = net.serve(self.memory.ram(), Net::pump)?;
            self.interrupt(NET, progress);
        }
        // A tap that has been removed is nothing but an error (tun.c, tun_chr_poll).
        if net.device().has_vanished() || happened.contains(PollFlags::ERR) {
            return Err(End::TapVanished(net.device().wire().name().to_owned()));
        }
        Ok(())
    }
}
