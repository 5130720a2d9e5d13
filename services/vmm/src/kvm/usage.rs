//! What the threads of a guest have used. Nothing here needs a path: a process in its jail has none.

use std::{
    fs::File,
    mem::MaybeUninit,
    os::unix::{
        fs::FileExt,
        thread::{JoinHandleExt, RawPthread},
    },
    thread::JoinHandle,
};

use omnirun_vmm_api::{Bytes, Millis, Stats};

/// A thread whose processor time is counted, from outside.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    thread: RawPthread,
    /// Until it is joined, the C library knows it.
    _not_joined: std::marker::PhantomData<&'a ()>,
}

impl<'a> Counted<'a> {
    /// A thread that has not been joined.
    pub fn new<T>(thread: &'a JoinHandle<T>) -> Self {
        Self { thread: thread.as_pthread_t(), _not_joined: std::marker::PhantomData }
    }

    /// What it has used, in nanoseconds; 0 for one that has ended.
    fn nanoseconds(self) -> u64 {
        let mut clock = MaybeUninit::<libc::clockid_t>::uninit();
        // SAFETY: the thread has not been joined, so that its handle is valid; the clock is written where this succeeds.
        if unsafe { libc::pthread_getcpuclockid(self.thread, clock.as_mut_ptr()) } != 0 {
            return 0;
        }
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: as above; the time is a structure of ours. A thread that has just ended leaves zeros there.
        unsafe { libc::clock_gettime(clock.assume_init(), &mut time) };
        nanoseconds(time)
    }
}

fn nanoseconds(time: libc::timespec) -> u64 {
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec))
}

/// What these threads have used so far, and what the process has in memory. Zeros where it cannot be counted.
pub fn now<'a>(threads: impl Iterator<Item = Counted<'a>>, statm: Option<&File>) -> Stats {
    let used = threads.map(Counted::nanoseconds).fold(0, u64::saturating_add);
    Stats {
        vcpu: Millis(used / 1_000_000),
        resident: Bytes(statm.and_then(read_resident).unwrap_or(0)),
        ..Stats::default()
    }
}

/// The file's content is made anew for each reading from its beginning.
fn read_resident(statm: &File) -> Option<u64> {
    let mut text = [0; 256];
    let length = statm.read_at(&mut text, 0).ok()?;
    resident(std::str::from_utf8(&text[..length]).ok()?)
}

/// Pages in memory (field 2).
fn resident(statm: &str) -> Option<u64> {
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * super::layout::PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_is_counted_while_it_lives() {
        let (go_on, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut sum = 0_u64;
            while told.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
        });
        let statm = File::open("/proc/self/statm").expect("every process has one");
        let used = || now([Counted::new(&thread)].into_iter(), Some(&statm));
        let first = used();
        let since = std::time::Instant::now();
        while used().vcpu.0 < first.vcpu.0 + 5 {
            assert!(since.elapsed().as_secs() < 30, "it is not counted");
        }
        assert!(used().resident.0 > 0);
        drop(go_on);
        thread.join().expect("it does not panic");
    }

    #[test]
    fn the_second_number_is_the_pages_in_memory() {
        assert_eq!(resident("10 3 1 1 0 1 0\n"), Some(3 * 4096));
        assert_eq!(resident("10"), None);
    }
}
