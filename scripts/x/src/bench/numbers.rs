//! Percentiles, tables and the machine's load. Nothing here measures.

use std::time::Duration;

/// The value that `percent` of `times` do not exceed (nearest rank); zero for none. Sorts them.
pub fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

/// Microseconds with one digit.
pub fn micros(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e6)
}

/// Milliseconds with one digit.
pub fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

/// How many a second.
pub fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Prints a table: the first column to the left, the others to the right.
pub fn print_table(title: &str, columns: &[&str], rows: &[Vec<String>]) {
    let head: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    let width = |place: usize| {
        let cells = [&head].into_iter().chain(rows).filter_map(|row| row.get(place));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    println!("\n{title}");
    for row in [&head].into_iter().chain(rows) {
        let cells = row.iter().zip(&widths).enumerate().map(|(place, (cell, width))| match place {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// Processors and how busy they are, so that a table says what it was measured on.
pub fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!("{processors} processors, load {} (1, 5 and 15 minutes)", load.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values_and_none_of_nothing() {
        let mut times: Vec<Duration> = (1..=50).rev().map(Duration::from_millis).collect();
        for (percent, expected) in [(50, 25), (95, 48), (99, 50), (100, 50)] {
            assert_eq!(percentile(&mut times, percent), Duration::from_millis(expected), "{percent}");
        }
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }
}
