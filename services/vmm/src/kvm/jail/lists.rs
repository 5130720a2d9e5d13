//! The system calls that each kind of thread may make; any other one ends the process. Lists only: [`super::filter`]
//! applies them.
//!
//! A thread keeps the filter of the thread that started it and adds its own, so each list is part of [`OWNER`]'s.

use libc::{c_int, c_long};

/// How much of an argument the kernel looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
}

/// What an argument must be: these bits of it have this value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0.
    pub argument: u8,
    /// Its width.
    pub width: Width,
    /// The bits.
    pub mask: u64,
    /// Their value.
    pub value: u64,
}

/// A system call that is allowed: with any arguments, or where one of the conditions holds.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its number.
    pub call: c_long,
    /// The conditions; none means any arguments.
    pub one_of: &'static [Condition],
}

const fn any(call: c_long) -> Rule {
    Rule { call, one_of: &[] }
}

const fn when(call: c_long, one_of: &'static [Condition]) -> Rule {
    Rule { call, one_of }
}

const fn int(argument: u8, mask: u32, value: c_int) -> Condition {
    Condition { argument, width: Width::Int, mask: mask as u64, value: value as u32 as u64 }
}

const fn is(argument: u8, value: c_int) -> Condition {
    int(argument, u32::MAX, value)
}

/// A call of KVM by its number: type and number are the low 16 bits of the request (Linux' ioctl-number.rst, 0xAE).
const fn kvm(number: c_int) -> Condition {
    int(1, 0xffff, 0xae00 | number)
}

const NOT_EXECUTABLE: &[Condition] = &[int(2, libc::PROT_EXEC as u32, 0)];

/// The flags of pthread_create(3), in the form of clone(2). With clone3(2) the kernel's filter cannot see flags.
const A_THREAD: &[Condition] = &[Condition {
    argument: 0,
    width: Width::Long,
    mask: u64::MAX,
    value: (libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID) as u64,
}];

/// The call that is answered with "there is no such call" instead, so that the C library uses clone(2).
pub const ABSENT: &[Rule] = &[any(libc::SYS_clone3)];

/// What each thread needs: memory, locks, time, its own end.
macro_rules! every_thread_and {
    ($($rule:expr),* $(,)?) => {
        &[
            any(libc::SYS_brk),
            any(libc::SYS_clock_gettime),
            any(libc::SYS_close),
            any(libc::SYS_exit),
            any(libc::SYS_exit_group),
            any(libc::SYS_futex),
            any(libc::SYS_madvise),
            when(libc::SYS_mmap, NOT_EXECUTABLE),
            when(libc::SYS_mprotect, NOT_EXECUTABLE),
            any(libc::SYS_mremap),
            any(libc::SYS_munmap),
            any(libc::SYS_read),
            any(libc::SYS_readv),
            any(libc::SYS_restart_syscall),
            any(libc::SYS_rt_sigprocmask),
            any(libc::SYS_rt_sigreturn),
            any(libc::SYS_sched_yield),
            any(libc::SYS_sigaltstack),
            any(libc::SYS_write),
            any(libc::SYS_writev),
            // The agent port, which vCPUs move bytes of too.
            any(libc::SYS_recvfrom),
            any(libc::SYS_sendto),
            any(libc::SYS_recvmsg),
            any(libc::SYS_sendmsg),
            any(libc::SYS_shutdown),
            $($rule),*
        ]
    };
}

/// A virtual processor: runs the guest, and serves the device that it asks for.
pub const VCPU: &[Rule] = every_thread_and![
    any(libc::SYS_getrandom),
    any(libc::SYS_lseek),
    any(libc::SYS_pread64),
    when(
        libc::SYS_ioctl,
        &[
            kvm(0x80), // KVM_RUN
            kvm(0xad), // KVM_KVMCLOCK_CTRL
            kvm(0xe1), // KVM_SET_DEVICE_ATTR, for the counter of a guest that was paused
            kvm(0xe2), // KVM_GET_DEVICE_ATTR
            kvm(0x81), // KVM_GET_REGS, and what else a snapshot is made of:
            kvm(0x83), // KVM_GET_SREGS
            kvm(0x88), // KVM_GET_MSRS
            kvm(0x8c), // KVM_GET_FPU
            kvm(0x8e), // KVM_GET_LAPIC
            kvm(0x91), // KVM_GET_CPUID2
            kvm(0x98), // KVM_GET_MP_STATE
            kvm(0x9f), // KVM_GET_VCPU_EVENTS
            kvm(0xa1), // KVM_GET_DEBUGREGS
            kvm(0xa3), // KVM_GET_TSC_KHZ
            kvm(0xa4), // KVM_GET_XSAVE
            kvm(0xa6), // KVM_GET_XCRS
            kvm(0xcf), // KVM_GET_XSAVE2
        ]
    ),
];

/// The thread that waits for the agent port.
pub const DEVICES: &[Rule] = every_thread_and![any(libc::SYS_poll), any(libc::SYS_ppoll)];

/// The owner's other threads: the runtime that relays requests, and the start and the end of the guest.
pub const OWNER: &[Rule] = every_thread_and![
    any(libc::SYS_accept4),
    any(libc::SYS_clock_nanosleep),
    when(libc::SYS_clone, A_THREAD),
    any(libc::SYS_clone3), // see ABSENT
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd2),
    when(
        libc::SYS_fcntl,
        &[
            is(1, libc::F_DUPFD_CLOEXEC),
            is(1, libc::F_GETFD),
            is(1, libc::F_SETFD),
            is(1, libc::F_GETFL),
            is(1, libc::F_SETFL),
        ]
    ),
    any(libc::SYS_fstat),
    any(libc::SYS_fsync),
    any(libc::SYS_ftruncate),
    any(libc::SYS_getpid),
    any(libc::SYS_getrandom),
    any(libc::SYS_getsockname),
    any(libc::SYS_getsockopt),
    any(libc::SYS_gettid),
    // KVM's calls, of all numbers, and FIONBIO.
    when(libc::SYS_ioctl, &[int(1, 0xff00, 0xae00), is(1, libc::FIONBIO as c_int)]),
    any(libc::SYS_lseek),
    any(libc::SYS_newfstatat),
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    when(libc::SYS_prctl, &[is(0, libc::PR_SET_NAME), is(0, libc::PR_SET_NO_NEW_PRIVS)]),
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_rseq),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_seccomp), // the filters of the threads above
    any(libc::SYS_set_robust_list),
    any(libc::SYS_setsockopt),
    any(libc::SYS_socketpair),
    any(libc::SYS_statx),
    any(libc::SYS_tgkill),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_lets_a_thread_reach_for_the_host() {
        for list in [OWNER, VCPU, DEVICES] {
            for call in [
                libc::SYS_open,
                libc::SYS_openat,
                libc::SYS_openat2,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_fork,
                libc::SYS_vfork,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_mount,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_setuid,
                libc::SYS_bpf,
                libc::SYS_io_uring_setup,
                libc::SYS_keyctl,
                libc::SYS_userfaultfd,
                libc::SYS_perf_event_open,
                libc::SYS_kill,
            ] {
                assert!(list.iter().all(|rule| rule.call != call), "{call}");
            }
        }
    }

    #[test]
    fn what_a_guests_thread_may_the_thread_that_starts_it_may_too() {
        for rule in VCPU.iter().chain(DEVICES) {
            assert!(OWNER.iter().any(|owners| owners.call == rule.call), "{}", rule.call);
        }
        assert!(VCPU.len() < OWNER.len() && DEVICES.len() < VCPU.len());
    }

    #[test]
    fn each_call_is_in_a_list_once() {
        for list in [OWNER, VCPU, DEVICES] {
            let mut calls: Vec<_> = list.iter().map(|rule| rule.call).collect();
            calls.sort_unstable();
            assert!(calls.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn memory_never_becomes_executable_and_a_clone_is_a_thread() {
        for list in [OWNER, VCPU, DEVICES] {
            for call in [libc::SYS_mmap, libc::SYS_mprotect] {
                let rule = list.iter().find(|rule| rule.call == call).expect("each has it");
                assert_eq!(rule.one_of, NOT_EXECUTABLE);
            }
            assert!(list.iter().all(|rule| rule.call != libc::SYS_pkey_mprotect));
        }
        assert_eq!(A_THREAD[0].value & libc::CLONE_NEWUSER as u64, 0);
        assert_eq!(A_THREAD[0].value, 0x3d0f00);
    }
}
