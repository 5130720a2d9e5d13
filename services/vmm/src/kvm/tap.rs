//! A tap interface of the host, as the other end of a guest's network device: one frame in each reading and writing
//! (Linux' Documentation/networking/tuntap.rst). It is opened where its name means something, before the process that runs
//! the guest goes into a network namespace of its own; from then on the descriptor is all that is left of it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use omnirun_vmm_api::MonitorError;
use rustix::fs::{OFlags, fcntl_setfl};

use super::virtio::net::{Received, Sent, Wire};

const DEVICE: &str = "/dev/net/tun";
const INTERFACES: &str = "/sys/class/net";
/// Longest name of an interface: the kernel's IFNAMSIZ without the final zero.
const NAME_MAX: usize = 15;

/// An interface that is attached. Whoever holds the last descriptor detaches it.
#[derive(Debug)]
pub struct Tap {
    name: String,
    file: File,
}

impl Tap {
    /// Attaches to the tap of that name. It is never made: what goes through it is the host's to decide.
    pub fn open(name: &str) -> Result<Self, MonitorError> {
        let refused =
            |reason: String| MonitorError::BadTap { name: name.escape_default().to_string(), reason };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_plain) {
            return Err(refused(format!("a name has 1 to {NAME_MAX} letters, digits, - and _")));
        }
        let remedy = format!("make it with `ip tuntap add dev {name} mode tap`, or leave the network out");
        let absent = || refused(format!("this host has no tap of that name: {remedy}"));
        // Attaching makes an interface where there is none, so it is looked for before and after.
        let before = index(name).ok_or_else(absent)?;
        let mut options = File::options();
        let file = options.read(true).write(true).open(DEVICE).map_err(|error| {
            refused(format!("{DEVICE}: {error}: load the module tun, and let this user open that file"))
        })?;
        attach(&file, name).map_err(|error| refused(why(&error, name)))?;
        if index(name) != Some(before) {
            return Err(absent());
        }
        fcntl_setfl(&file, OFlags::NONBLOCK).map_err(|errno| refused(io::Error::from(errno).to_string()))?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// As the host calls it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Shared by the guests of one process, which live one after the other, and by the thread that waits for frames.
impl Wire for Arc<Tap> {
    fn send(&mut self, frame: &[u8]) -> Sent {
        match (&self.file).write(frame) {
            Err(error) if has_vanished(&error) => Sent::Vanished,
            Err(_) => Sent::Dropped,
            Ok(_) => Sent::Whole,
        }
    }

    fn receive(&mut self, frame: &mut [u8]) -> Received {
        match (&self.file).read(frame) {
            Ok(0) => Received::Nothing,
            Ok(length) => Received::Frame(length),
            Err(error) if has_vanished(&error) => Received::Vanished,
            Err(_) => Received::Nothing,
        }
    }
}

/// What the kernel answers when the interface has been removed (tun.c: EBADFD of a file without an interface). An interface that is down
/// answers EIO, and drops frames.
fn has_vanished(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::ENODEV))
}

/// The number of a tap; none where there is no interface of that name, or it is no tap.
fn index(name: &str) -> Option<u32> {
    let interface: PathBuf = Path::new(INTERFACES).join(name);
    let flags = fs::read_to_string(interface.join("tun_flags")).ok()?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).ok()?;
    let is_tap = flags & libc::IFF_TAP as u32 != 0;
    fs::read_to_string(interface.join("ifindex")).ok()?.trim().parse().ok().filter(|_| is_tap)
}

fn attach(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: it is plain numbers, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is of the type that this call reads and writes, and lives longer than it.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn why(error: &io::Error, name: &str) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another process is attached to it: give each guest a tap of its own".to_owned(),
        Some(libc::EPERM) => {
            format!(
                "this user may not attach to it: `ip tuntap add dev {name} mode tap user NAME` makes one that they may"
            )
        }
        Some(libc::EINVAL) => format!(
            "it is of another kind: make it with `ip tuntap add dev {name} mode tap`, without further options"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_that_is_not_there_is_named_with_what_to_do_and_not_made() {
        let said = Tap::open("omnirun-none0").expect_err("nobody has made it").to_string();
        assert!(
            said.starts_with("cannot use the tap omnirun-none0: this host has no tap of that name"),
            "{said}"
        );
        assert!(said.contains("ip tuntap add dev omnirun-none0 mode tap"), "{said}");
        assert!(!Path::new(INTERFACES).join("omnirun-none0").exists());
    }

    #[test]
    fn an_interface_that_is_no_tap_is_not_taken_for_one() {
        let said = Tap::open("lo").expect_err("it is the loopback").to_string();
        assert!(said.contains("no tap of that name"), "{said}");
    }

    #[test]
    fn what_is_no_name_is_refused_before_anything_is_opened() {
        for name in ["", "..", "a/b", "a b", "0123456789abcdef", "tap\n"] {
            let said = Tap::open(name).expect_err("it is no name").to_string();
            assert!(said.contains("1 to 15 letters") && !said.contains('\n'), "{said}");
        }
    }
}
