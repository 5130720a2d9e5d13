//! The rate of the host's time stamp counter.
//!
//! A guest under TCG reads the host's counter, and microvm has no timer to calibrate it against: without
//! `tsc_early_khz` on its command line a boot hangs whenever the host is loaded.

use std::{
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// How long is measured. Each end is known to about a microsecond, so the rate is to about 20 in a million.
const MEASURED: Duration = Duration::from_millis(50);

/// Ticks in a millisecond, measured once in the life of the process.
pub fn khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> u64 {
    let (ticks_before, before) = now();
    thread::sleep(MEASURED);
    let (ticks_after, after) = now();
    let nanos = u64::try_from((after - before).as_nanos()).unwrap_or(u64::MAX).max(1);
    let ticks = u128::from(ticks_after.saturating_sub(ticks_before));
    u64::try_from(ticks * 1_000_000 / u128::from(nanos)).unwrap_or(u64::MAX)
}

/// Both clocks at one moment: the closest of a few tries, since a preemption between the two readings would show.
fn now() -> (u64, Instant) {
    let tries = (0..8).map(|_| {
        let before = Instant::now();
        // SAFETY: RDTSC reads a counter and touches no memory; every x86-64 processor has it.
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        (before.elapsed(), ticks, before)
    });
    let (_, ticks, at) = tries.min_by_key(|(took, _, _)| *took).expect("eight tries are not none");
    (ticks, at)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rate_is_that_of_a_real_processor() {
        let khz = super::khz();
        assert!((500_000..10_000_000).contains(&khz), "{khz}");
    }
}
