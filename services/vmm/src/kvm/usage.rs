//! What the threads of a guest have used.

use std::fs;

use omnirun_vmm_api::{Bytes, Millis, Stats};

/// proc(5): times in /proc/PID/task/TID/stat are in USER_HZ, which is 100 on every x86 kernel.
const MILLIS_PER_TICK: u64 = 10;
/// Names of the threads that do a guest's work; a process has one guest.
const THREADS: [&str; 2] = ["vcpu-", "devices"];

/// What this process's guest has used so far. Zeros where it cannot be counted.
pub fn now() -> Stats {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ticks =
        tasks.filter_map(|task| ticks(&fs::read_to_string(task.path().join("stat")).ok()?)).sum::<u64>();
    let resident = fs::read_to_string("/proc/self/statm").ok().and_then(|text| resident(&text));
    Stats {
        vcpu: Millis(ticks * MILLIS_PER_TICK),
        resident: Bytes(resident.unwrap_or(0)),
        ..Stats::default()
    }
}

/// User time (field 14) and system time (15) of a thread that works for the guest; the name is in parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    if !THREADS.iter().any(|thread| name.starts_with(thread)) {
        return None;
    }
    let mut times = rest.split_whitespace().skip(11);
    Some(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?)
}

/// Pages in memory (field 2).
fn resident(statm: &str) -> Option<u64> {
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * super::layout::PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_threads_of_the_guest_count() {
        let stat = |name: &str| format!("7 ({name}) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14");
        assert_eq!(ticks(&stat("vcpu-0")), Some(42));
        assert_eq!(ticks(&stat("devices")), Some(42));
        assert_eq!(ticks(&stat("tokio (vcpu-0)")), None);
        assert_eq!(ticks("7 (vcpu-0) S 1"), None);
        assert_eq!(resident("10 3 1 1 0 1 0\n"), Some(3 * 4096));
    }
}
