//! QEMU's command line. A snapshot can be restored only under the same machine, so everything but `-incoming` depends on
//! the shape alone.

use std::os::fd::RawFd;

use omnirun_vmm_api::VmSpec;

use super::tsc;

/// Paths as QEMU sees them. In a jail they are bind mounts at its root.
pub struct Paths {
    pub kernel: String,
    pub initramfs: String,
    pub root: String,
}

/// Descriptors that QEMU inherits, by number.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    /// Its end of the QMP socket.
    pub qmp: RawFd,
    /// Its end of the agent port.
    pub port: RawFd,
    /// The snapshot to restore.
    pub incoming: Option<RawFd>,
}

/// Ticks in a second of the Debian cloud kernel: CONFIG_HZ=250.
const GUEST_HZ: u64 = 250;
/// Most memory for translated code in MiB; QEMU's own default is up to 1 GiB.
const TRANSLATED_MIB_MAX: u32 = 256;

/// Everything after the program's name.
pub fn arguments(spec: &VmSpec, paths: &Paths, inherited: Inherited) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "-nodefaults -no-user-config -no-reboot -display none -serial none -parallel none -monitor none",
        "-M microvm,rtc=on,isa-serial=off,mem-merge=off,dump-guest-core=off -cpu max",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    .iter()
    .flat_map(|line| line.split(' ').map(str::to_owned))
    .collect();
    let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    add("-accel", format!("tcg,thread=multi,tb-size={TRANSLATED_MIB_MAX}"));
    add("-smp", spec.vcpus.0.to_string());
    add("-m", format!("{}M", spec.memory.0));
    add("-kernel", paths.kernel.clone());
    add("-initrd", paths.initramfs.clone());
    add("-append", kernel_command_line(inherited));
    let comma_safe = paths.root.replace(',', ",,");
    add("-drive", format!("id=root,file={comma_safe},format=raw,if=none,readonly=on,file.locking=off"));
    add("-device", "virtio-blk-device,drive=root".into());
    add("-device", "virtio-serial-device,max_ports=2".into());
    add("-chardev", format!("socket,id=port,fd={}", inherited.port));
    add("-device", "virtserialport,chardev=port,name=org.omnirun.agent".into());
    add("-chardev", format!("socket,id=qmp,fd={}", inherited.qmp));
    add("-mon", "chardev=qmp,mode=control".into());
    if let Some(memory) = inherited.incoming {
        add("-incoming", format!("fd:{memory}"));
    }
    arguments
}

/// No console, so that nothing a guest prints can reach the host. A restored guest has its own command line in memory.
///
/// `tsc=reliable`: the only other clock of a microvm is its tick, and the kernel's watchdog compares the two. A loaded
/// host delays ticks, the counter is blamed and dropped, and the guest is left with a clock of 4 ms steps that loses
/// time, and with a tick that never stops, which costs an idle guest 5 % of a processor.
fn kernel_command_line(inherited: Inherited) -> String {
    let khz = if inherited.incoming.is_some() { 1_000_000 } else { tsc::khz() };
    let loops_per_jiffy = khz * 1000 / GUEST_HZ;
    format!(
        "quiet panic=1 reboot=t 8250.nr_uarts=0 cryptomgr.notests random.trust_cpu=on tsc=reliable \
         tsc_early_khz={khz} lpj={loops_per_jiffy}"
    )
}
