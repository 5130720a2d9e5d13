//! What the guest uses, from its own kernel's counters.

use std::{
    fs, io,
    sync::{Mutex, PoisonError},
    thread,
};

use omnirun_agent_api::Metrics;

use crate::clock;

/// Busy and total clock ticks at the last reading.
static LAST: Mutex<(u64, u64)> = Mutex::new((0, 0));

/// Counts now.
pub fn read() -> io::Result<Metrics> {
    let (busy, total) = cpu_ticks(&fs::read_to_string("/proc/stat")?);
    let (busy_before, total_before) =
        std::mem::replace(&mut *LAST.lock().unwrap_or_else(PoisonError::into_inner), (busy, total));
    let (busy, total) = (busy.saturating_sub(busy_before), total.saturating_sub(total_before));
    let memory = fs::read_to_string("/proc/meminfo")?;
    let (mem_total, mem_free) = (meminfo(&memory, "MemTotal:"), meminfo(&memory, "MemAvailable:"));
    let disk = rustix::fs::statvfs("/")?;
    Ok(Metrics {
        timestamp: clock::stamp(),
        cpu_used_pct: if total == 0 { 0.0 } else { (busy as f64 * 1000.0 / total as f64).round() / 10.0 },
        cpu_count: thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        mem_used: mem_total.saturating_sub(mem_free),
        mem_total,
        disk_used: disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize),
        disk_total: disk.f_blocks.saturating_mul(disk.f_frsize),
    })
}

/// proc(5): the first line of /proc/stat is `cpu user nice system idle iowait irq softirq steal …`.
fn cpu_ticks(stat: &str) -> (u64, u64) {
    let ticks: Vec<u64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    let total: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (total - idle, total)
}

/// proc(5): `Name:   123 kB`.
fn meminfo(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_iowait_are_not_use() {
        assert_eq!(cpu_ticks("cpu  10 0 5 80 4 0 1 0 0 0\ncpu0 …"), (16, 100));
        assert_eq!(cpu_ticks(""), (0, 0));
    }

    #[test]
    fn memory_is_read_by_name_in_bytes() {
        assert_eq!(meminfo("MemTotal:  2 kB\nMemAvailable:   1 kB\n", "MemAvailable:"), 1024);
    }
}
