//! From the initramfs to the guest's root: kernel modules, the read-only image, a writable layer in memory over it,
//! and the switch of roots. After it the process is still number 1 and the initramfs is empty.

use std::{fs, io, path::Path, thread, time::Duration, time::Instant};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, mount, mount_move},
};

/// How long the block device may take to appear after its driver was loaded.
const DEVICE_WAIT_MAX: Duration = Duration::from_secs(10);

/// A step of the boot that failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A mount was refused.
    #[error("cannot mount {what}: {source}")]
    Mount {
        /// Mount point.
        what: &'static str,
        /// Why.
        source: rustix::io::Errno,
    },
    /// A kernel module was refused.
    #[error("cannot load module {name}: {source}")]
    Module {
        /// File name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The root's block device did not appear.
    #[error("no block device /dev/vda")]
    NoRoot,
    /// Anything else on the way.
    #[error("cannot {what}: {source}")]
    Step {
        /// The step.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn step<T>(what: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T, BootError> {
    result.map_err(|source| BootError::Step { what, source: source.into() })
}

fn mount_at(
    source: &str,
    target: &'static str,
    kind: &str,
    flags: MountFlags,
    data: Option<&std::ffi::CStr>,
) -> Result<(), BootError> {
    mount(source, target, kind, flags, data).map_err(|source| BootError::Mount { what: target, source })
}

/// Makes the guest's root and moves into it.
pub fn boot() -> Result<(), BootError> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_at("dev", "/dev", "devtmpfs", MountFlags::NOSUID, None)?;
    mount_at("proc", "/proc", "proc", plain, None)?;
    mount_at("sys", "/sys", "sysfs", plain, None)?;
    load_modules("/modules")?;
    if has_network()? {
        load_modules("/modules/network")?;
    }
    wait_for_root()?;
    mount_at("/dev/vda", "/lower", "squashfs", MountFlags::RDONLY | MountFlags::NODEV, None)?;
    // Half of the guest's memory, the kernel's default: a full disk must not be an out-of-memory kill.
    mount_at("memory", "/memory", "tmpfs", MountFlags::NODEV, Some(c"mode=0755"))?;
    step("make the overlay's directories", fs::create_dir("/memory/upper"))?;
    step("make the overlay's directories", fs::create_dir("/memory/work"))?;
    mount_at(
        "overlay",
        "/root",
        "overlay",
        MountFlags::NODEV,
        Some(c"lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work"),
    )?;
    switch_root()?;
    finish_root()
}

/// Whether one of the devices that virtio found is a network's (VIRTIO 1.2, section 5: number 1). Where there is none,
/// its modules would only make the boot longer.
fn has_network() -> Result<bool, BootError> {
    let devices = step("list the devices", fs::read_dir("/sys/bus/virtio/devices"))?;
    let kinds = devices.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("device")).ok());
    Ok(kinds.into_iter().any(|kind| kind.trim() == "0x0001"))
}

/// Loads the directory's *.ko in the order of their names, which is the order that they need.
fn load_modules(directory: &str) -> Result<(), BootError> {
    let mut names: Vec<_> = step("list the modules", fs::read_dir(directory))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "ko"))
        .collect();
    names.sort();
    for path in names {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let load = || -> io::Result<()> {
            let file = fs::File::open(&path)?;
            rustix::system::finit_module(&file, c"", 0)?;
            Ok(())
        };
        load().map_err(|source| BootError::Module { name, source })?;
    }
    Ok(())
}

fn wait_for_root() -> Result<(), BootError> {
    let since = Instant::now();
    while !Path::new("/dev/vda").exists() {
        if since.elapsed() > DEVICE_WAIT_MAX {
            return Err(BootError::NoRoot);
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What switch_root(8) does: empties the initramfs, which is memory, and makes /root the root.
fn switch_root() -> Result<(), BootError> {
    for name in ["dev", "proc", "sys"] {
        let to = format!("/root/{name}");
        step("make a mount point", fs::create_dir_all(&to))?;
        step("move a mount", mount_move(format!("/{name}"), to))?;
    }
    // The kernel keeps this program's pages until it ends, so its file may go.
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/init");
    step("enter the new root", rustix::process::chdir("/root"))?;
    step("move the new root", mount_move(".", "/"))?;
    step("change the root", rustix::process::chroot("."))?;
    step("enter the new root", rustix::process::chdir("/"))
}

/// The mounts and links that programs expect, and descriptors 0 to 2 on nothing.
fn finish_root() -> Result<(), BootError> {
    for directory in ["/run", "/tmp", "/var/tmp", "/dev/pts", "/dev/shm", "/var/log", "/var/cache"] {
        step("make a directory", fs::create_dir_all(directory))?;
    }
    let nodev = MountFlags::NOSUID | MountFlags::NODEV;
    mount_at("pts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, Some(c"mode=620,gid=5"))?;
    mount_at("shm", "/dev/shm", "tmpfs", nodev, Some(c"mode=1777"))?;
    mount_at("run", "/run", "tmpfs", nodev, Some(c"mode=0755,size=10%"))?;
    for directory in ["/tmp", "/var/tmp"] {
        step("open a directory to all", rustix::fs::chmod(directory, Mode::from_raw_mode(0o1777)))?;
    }
    for (to, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        let _ = std::os::unix::fs::symlink(to, link);
    }
    let null = step("open /dev/null", rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()))?;
    step("close the console", rustix::stdio::dup2_stdin(&null))?;
    step("close the console", rustix::stdio::dup2_stdout(&null))?;
    step("bring up the loopback interface", loopback_up())
}

/// Programs talk to themselves over 127.0.0.1; nothing else would bring that interface up.
fn loopback_up() -> io::Result<()> {
    #[repr(C)]
    struct InterfaceFlags {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    const SIOCSIFFLAGS: rustix::ioctl::Opcode = 0x8914; // linux/sockios.h
    const IFF_UP: i16 = 1; // linux/if.h
    let mut request = InterfaceFlags { name: [0; 16], flags: IFF_UP, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, which is 40 bytes with the name first and the flags after it.
    unsafe {
        let set = rustix::ioctl::Setter::<SIOCSIFFLAGS, InterfaceFlags>::new(request);
        rustix::ioctl::ioctl(&socket, set)?;
    }
    Ok(())
}
