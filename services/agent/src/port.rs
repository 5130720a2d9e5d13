//! The virtio port and the HTTP/2 sessions on it.
//!
//! The port is opened once and read and written by blocking threads. An epoll wrapper does not work: while the host
//! is away the port reports a hang-up that such a wrapper remembers for ever. A read of 0 bytes means that the host is
//! away and ends the session; the next bytes open a new one.

use std::{
    fs, io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    runtime::Handle,
};

use crate::{barrier::Guest, serve};

/// Name under which the monitor offers the port.
const PORT_NAME: &str = "org.omnirun.agent";
/// How long the port may take to appear after boot.
const PORT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes on the way between the port and the server, each direction.
const BRIDGE_BYTES: usize = 256 * 1024;
/// The kernel takes at most this much in one write to a port (drivers/char/virtio_console.c, port_fops_write).
const WRITE_BYTES_MAX: usize = 32 * 1024;
/// How long to wait before looking again whether the host has come back.
const AWAY_PAUSE: Duration = Duration::from_millis(5);

/// Serves the host until the port breaks. Returns only with an error.
pub fn serve_for_ever() -> io::Result<()> {
    let port = Arc::new(open_port()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let guest = Arc::new(Guest::new());
    crate::reap::start();
    let mut session: Option<Session> = None;
    let mut buffer = vec![0; WRITE_BYTES_MAX];
    loop {
        let read = match rustix::io::read(&*port, &mut buffer) {
            Ok(read) => read,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => 0,
        };
        if read == 0 {
            if let Some(ended) = session.take() {
                ended.end();
            }
            thread::sleep(AWAY_PAUSE);
            continue;
        }
        let open = match session.take() {
            Some(open) => open,
            None => Session::open(&port, runtime.handle(), &guest)?,
        };
        // A failed write means that the server has ended the session: it was not spoken to in HTTP/2.
        session = open.receive(&buffer[..read]);
    }
}

/// Finds the port by its name and opens it. A port can be opened once at a time.
fn open_port() -> io::Result<fs::File> {
    let since = Instant::now();
    loop {
        if let Some(path) = find_port() {
            return fs::File::options().read(true).write(true).open(path);
        }
        if since.elapsed() > PORT_WAIT_MAX {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no agent port"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn find_port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim_end() == PORT_NAME).then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}

/// One HTTP/2 connection: the bridge's near end here, the far end with the server.
struct Session {
    runtime: Handle,
    inward: WriteHalf<DuplexStream>,
    writer: JoinHandle<()>,
    is_over: Arc<AtomicBool>,
}

impl Session {
    fn open(port: &Arc<fs::File>, runtime: &Handle, guest: &Arc<Guest>) -> io::Result<Self> {
        let (near, far) = tokio::io::duplex(BRIDGE_BYTES);
        let (outward, inward) = tokio::io::split(near);
        let is_over = Arc::new(AtomicBool::new(false));
        let writer = {
            let (port, runtime, is_over) = (port.clone(), runtime.clone(), is_over.clone());
            thread::Builder::new().name("port-writer".into()).spawn(move || copy_out(&port, &runtime, outward, &is_over))?
        };
        runtime.spawn(serve::session(far, guest.clone()));
        Ok(Self { runtime: runtime.clone(), inward, writer, is_over })
    }

    /// Passes bytes to the server; gives the session back while it lives.
    fn receive(mut self, bytes: &[u8]) -> Option<Self> {
        match self.runtime.block_on(self.inward.write_all(bytes)) {
            Ok(()) => Some(self),
            Err(_) => {
                self.end();
                None
            }
        }
    }

    /// Ends it and waits until nothing of it can be written to the port any more.
    fn end(self) {
        self.is_over.store(true, Ordering::Release);
        let mut inward = self.inward;
        let _ = self.runtime.block_on(inward.shutdown());
        drop(inward);
        let _ = self.writer.join();
    }
}

/// Copies what the server says to the port, until the session is over.
fn copy_out(port: &fs::File, runtime: &Handle, mut outward: ReadHalf<DuplexStream>, is_over: &AtomicBool) {
    let mut buffer = vec![0; WRITE_BYTES_MAX];
    loop {
        let read = match runtime.block_on(outward.read(&mut buffer)) {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            if is_over.load(Ordering::Acquire) {
                break;
            }
            // A write blocks for as long as the host is away and would then reach the next session, so look first.
            let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let mut ready = [PollFd::from_borrowed_fd(port.as_fd(), PollFlags::OUT)];
            let _ = poll(&mut ready, Some(&wait));
            if !ready[0].revents().contains(PollFlags::OUT) {
                if ready[0].revents().contains(PollFlags::HUP) {
                    thread::sleep(AWAY_PAUSE);
                }
                continue;
            }
            match rustix::io::write(port, rest) {
                Ok(written) => rest = &rest[written..],
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(_) => break,
            }
        }
    }
}
