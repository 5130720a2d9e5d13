//! Process 1 of the lab: mounts, KVM's modules, the wanted cases, and the end of the machine.
//!
//! Every line that is meant for `cargo x lab` begins with `LAB `.

use std::{fs, os::fd::AsRawFd, path::Path};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, mount, mount_bind, mount_move},
    process::{chdir, chroot},
    system::{RebootCommand, reboot},
};

use crate::{bench, cases, hostile};

/// What process 1 of the bench's own guest prints.
pub const GUEST_SAYS: &str = "LAB-GUEST-INIT";

/// Runs what the arguments name, says how it went, and ends the machine.
pub fn run() -> ! {
    if !Path::new(crate::owner::STORE).exists() {
        // Not the lab, but a guest in it, whose start is measured.
        println!("{GUEST_SAYS}");
        if Path::new(hostile::MARK).exists()
            && let Err(error) = hostile::break_the_rules()
        {
            println!("{error:#}");
        }
        loop {
            std::thread::park();
        }
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = prepare().and_then(|()| run_wanted(&arguments)) {
        println!("LAB broken {error:#}");
    }
    end_machine()
}

/// Ends the lab. `cargo x lab` runs QEMU with -no-reboot, so that a restart does it.
pub fn end_machine() -> ! {
    let _ = reboot(RebootCommand::Restart);
    loop {
        std::thread::park();
    }
}

fn prepare() -> Result<()> {
    leave_first_root().context("cannot make a root that can be left")?;
    for (kind, target) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
        // As `omnirun doctor` asks for it: see docs/runbooks/host.md.
        let options = (kind == "cgroup2").then_some(c"favordynmods");
        mount(kind, target, kind, MountFlags::empty(), options)
            .with_context(|| format!("cannot mount {target}"))?;
    }
    let mut modules: Vec<_> = fs::read_dir("/modules")
        .context("no modules")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    modules.sort();
    for path in modules {
        let file = fs::File::open(&path)?;
        rustix::system::finit_module(&file, c"", 0)
            .with_context(|| format!("cannot load {}", path.display()))?;
    }
    raise_loopback().context("cannot raise the loopback interface")?;
    anyhow::ensure!(Path::new("/dev/kvm").exists(), "there is no /dev/kvm");
    let version = fs::read_to_string("/proc/version").context("no version")?;
    println!("LAB up {}", version.trim());
    Ok(())
}

/// It gets its address with that (netdevice(7), SIOCSIFFLAGS).
fn raise_loopback() -> Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a structure of numbers, of which zeros are none.
    let mut wish: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in wish.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    wish.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP)?;
    // SAFETY: the kernel reads this structure, which is of the kind that the request takes.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const wish) };
    anyhow::ensure!(done == 0, std::io::Error::last_os_error());
    Ok(())
}

/// A process whose root is the kernel's very first one cannot change it (pivot_root(2)); hosts' roots are mounted over
/// that one, and so is the lab's from here on.
fn leave_first_root() -> Result<()> {
    const ROOT: &str = "/root";
    fs::create_dir_all(ROOT)?;
    mount_bind("/", ROOT)?;
    chdir(ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    Ok(chdir("/")?)
}

fn run_wanted(arguments: &[String]) -> Result<()> {
    match arguments.first().map(String::as_str) {
        Some("cases") => {
            let times = arguments.get(1).context("how often")?.parse()?;
            cases::run(times, arguments.get(2).map(String::as_str))
        }
        Some("bench") => bench::run(),
        other => anyhow::bail!("nothing to do: {other:?}"),
    }
}
