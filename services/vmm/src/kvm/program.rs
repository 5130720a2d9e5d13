//! The program's own pages, which the host's kernel has at hand: those of the start are given back after it.

use std::{ffi::c_void, ptr, slice};

use rustix::mm::{Advice, madvise};

use super::layout;

/// Gives back every page of the program that nothing can have changed. What runs on finds its pages again in the host's page
/// cache, with those around them; what only a start needs, which is most of the monitor, stays out of this process.
pub fn forget_start() {
    // SAFETY: the function is of the type that is asked for, and keeps nothing of what it is shown.
    unsafe { libc::dl_iterate_phdr(Some(forget_one), ptr::null_mut()) };
}

/// Called for each loaded object: the program, the libraries of one that is not linked as a whole, and the kernel's own.
extern "C" fn forget_one(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> libc::c_int {
    // SAFETY: the C library shows an object that is loaded, with as many headers as it says.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)))
    };
    for header in headers.iter().filter(|header| is_as_in_its_file(header)) {
        let start = base + header.p_vaddr;
        let (first, end) = (start & !(layout::PAGE - 1), start + header.p_memsz);
        // SAFETY: these pages are a private mapping of a file, which nothing has ever written to: read again, they hold what
        // they held. The kernel's own object (vdso(7)) comes back in the same way. Where it refuses, nothing is lost.
        let _ = unsafe { madvise(first as *mut c_void, (end - first) as usize, Advice::LinuxDontNeed) };
    }
    0
}

/// Whether a segment cannot have been written to, by the loader neither. One that is read-only only after the loader's work
/// (RELRO) is part of one that may be written.
fn is_as_in_its_file(header: &libc::Elf64_Phdr) -> bool {
    header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0
}

#[cfg(test)]
mod tests {
    use std::{fs, hint::black_box};

    use super::*;

    static TEXT: [&str; 3] = ["this is read", "before", "and after"];

    /// What this process has of its program in memory, in KiB: proc(5), /proc/PID/status.
    fn of_files() -> u64 {
        let status = fs::read_to_string("/proc/self/status").expect("every process has one");
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("kernels say so");
        line.trim().trim_end_matches(" kB").parse().expect("it is a number")
    }

    #[test]
    fn a_program_goes_on_without_the_pages_of_its_start() {
        let before = (of_files(), TEXT.join(" "));
        for _ in 0..3 {
            forget_start();
            assert_eq!(black_box(TEXT).join(" "), before.1);
        }
        forget_start();
        assert!(of_files() < before.0, "nothing was given back");
    }

    #[test]
    fn only_segments_that_are_never_written_to_are_given_back() {
        let segment = |p_type, p_flags| libc::Elf64_Phdr {
            p_type,
            p_flags,
            p_offset: 0,
            p_vaddr: 0,
            p_paddr: 0,
            p_filesz: 0,
            p_memsz: 0,
            p_align: 0,
        };
        assert!(is_as_in_its_file(&segment(libc::PT_LOAD, libc::PF_R)));
        assert!(is_as_in_its_file(&segment(libc::PT_LOAD, libc::PF_R | libc::PF_X)));
        assert!(!is_as_in_its_file(&segment(libc::PT_LOAD, libc::PF_R | libc::PF_W)));
        assert!(!is_as_in_its_file(&segment(libc::PT_GNU_RELRO, libc::PF_R)));
    }
}
