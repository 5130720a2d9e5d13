//! A tap interface of the lab, as `ip tuntap`, `ip address` and `ip link` would make, name, and remove it.

use std::{
    fs::{self, File},
    io, mem,
    net::Ipv4Addr,
    os::fd::AsRawFd,
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

/// linux/if_tun.h and linux/sockios.h.
const TAP: i32 = libc::IFF_TAP | libc::IFF_NO_PI;

/// An interface, for as long as this is there.
pub struct LabTap {
    name: String,
}

impl LabTap {
    /// Makes one with this address in a network of 256, and brings it up.
    pub fn make(name: &str, address: Ipv4Addr) -> Result<Self> {
        let tun = File::options().read(true).write(true).open("/dev/net/tun").context("no tun")?;
        ask(&tun, libc::TUNSETIFF, &mut flagged(name, TAP))?;
        // It stays although nobody is attached to it.
        // SAFETY: this call takes a number.
        let kept = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, 1) };
        ensure!(kept == 0, "it cannot be kept: {}", io::Error::last_os_error());
        let made = Self { name: name.to_owned() };
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        ask(&socket, libc::SIOCSIFADDR, &mut addressed(name, address))?;
        ask(&socket, libc::SIOCSIFNETMASK, &mut addressed(name, Ipv4Addr::new(255, 255, 255, 0)))?;
        ask(&socket, libc::SIOCSIFFLAGS, &mut flagged(name, libc::IFF_UP | libc::IFF_RUNNING))?;
        Ok(made)
    }

    /// Removes it, whoever is attached to it (rtnetlink(7), RTM_DELLINK).
    pub fn remove(&self) -> Result<()> {
        let index = fs::read_to_string(format!("/sys/class/net/{}/ifindex", self.name))?;
        let index: i32 = index.trim().parse()?;
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
        // struct nlmsghdr: length, type, flags, sequence, port; struct ifinfomsg: family, type, index, flags, change.
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Vec::with_capacity(32);
        message.extend(32_u32.to_ne_bytes());
        message.extend(libc::RTM_DELLINK.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 12]);
        message.extend(index.to_ne_bytes());
        message.extend([0; 8]);
        send(&socket, &message, SendFlags::empty())?;
        let mut answer = [0; 64];
        let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
        // struct nlmsgerr behind a header: 0 or an error's number, negated.
        let error =
            answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        ensure!(error == Some(0), "it is not removed: {error:?}");
        Ok(())
    }
}

impl Drop for LabTap {
    fn drop(&mut self) {
        if fs::exists(format!("/sys/class/net/{}", self.name)).unwrap_or(false) {
            let _ = self.remove();
        }
    }
}

fn named(name: &str) -> libc::ifreq {
    // SAFETY: it is plain numbers, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn flagged(name: &str, flags: i32) -> libc::ifreq {
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

/// With a `struct sockaddr_in` (ip(7)): family, port, address in the network's order.
fn addressed(name: &str, address: Ipv4Addr) -> libc::ifreq {
    let mut request = named(name);
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_addr =
        libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data };
    request
}

fn ask(file: &impl AsRawFd, request: libc::Ioctl, with: &mut libc::ifreq) -> Result<()> {
    // SAFETY: the structure is of the type that these calls read and write, and lives longer than each.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, with) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("request {request:#x}")),
    }
}
