//! The guest's free memory: what was in it is of no use to anybody, and takes room in a snapshot.

use std::hint::black_box;

use rustix::system::sysinfo;

const PAGE: usize = 4096;
/// The most that is taken. Most of a large guest's memory was never used, and each page that is takes one of the host's.
const BYTES_MAX: u64 = 64 << 20;

/// Fills free memory with zeros, which a snapshot leaves out. The kernel's own start leaves as much as 20 MiB there, filled
/// with another byte (linux/poison.h, POISON_FREE_INITMEM).
///
/// A quarter of what is free stays for others. What was used last is given out first, so that little is missed.
pub fn fill_with_zeros() {
    let memory = sysinfo();
    let free = memory.freeram.saturating_mul(memory.mem_unit.into());
    fill(usize::try_from((free / 4 * 3).min(BYTES_MAX)).unwrap_or(0));
}

fn fill(bytes: usize) {
    let mut taken = vec![0_u8; bytes];
    // A page is there, and is zeros, once it is written to.
    for page in taken.chunks_mut(PAGE) {
        page[0] = black_box(0);
    }
    black_box(&taken);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_amount_can_be_filled_and_is_given_back() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").expect("every process has one");
            text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("it is a number")
                * PAGE
        };
        let before = resident();
        for bytes in [0, 1, PAGE + 1, 48 << 20] {
            fill(bytes);
        }
        assert!(resident() < before + (24 << 20), "it is kept");
    }
}
