//! How long a sandbox has had its guest, and for how much of that its processors stood still. By the monotonic clock, which nobody sets.

use std::time::{Duration, Instant};

/// Runs from the claim of a guest until its end is decided.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    started: Instant,
    /// Pauses that are over.
    paused: Duration,
    paused_since: Option<Instant>,
    stopped: Option<Instant>,
}

/// What a stopwatch shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lap {
    /// Time that the guest ran.
    pub ran: Duration,
    /// Time that it was paused.
    pub paused: Duration,
}

impl Stopwatch {
    /// One that runs since `now`.
    pub fn start(now: Instant) -> Self {
        Self { started: now, paused: Duration::ZERO, paused_since: None, stopped: None }
    }

    /// The guest stands still from `now` on. Twice is once.
    pub fn pause(&mut self, now: Instant) {
        self.paused_since.get_or_insert(now);
    }

    /// The guest runs again.
    pub fn resume(&mut self, now: Instant) {
        if let Some(since) = self.paused_since.take() {
            self.paused += self.stopped.unwrap_or(now).saturating_duration_since(since);
        }
    }

    /// Shows the same from `now` on, whatever comes. The first time counts.
    pub fn stop(&mut self, now: Instant) {
        self.stopped.get_or_insert(now);
    }

    /// What it shows at `now`.
    pub fn lap(&self, now: Instant) -> Lap {
        let now = self.stopped.unwrap_or(now);
        let standing = self.paused_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let paused = self.paused + standing;
        let had = now.saturating_duration_since(self.started);
        Lap { ran: had.saturating_sub(paused), paused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_no_running_time_and_the_end_ends_both() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let mut watch = Stopwatch::start(begin);
        let check = |watch: &Stopwatch, second, ran, paused| {
            let expected = Lap { ran: Duration::from_secs(ran), paused: Duration::from_secs(paused) };
            assert_eq!(watch.lap(at(second)), expected, "{second}");
        };
        check(&watch, 10, 10, 0);
        watch.pause(at(10));
        watch.pause(at(15));
        check(&watch, 30, 10, 20);
        watch.resume(at(40));
        watch.resume(at(45));
        check(&watch, 50, 20, 30);
        watch.pause(at(60));
        watch.stop(at(70));
        watch.stop(at(80));
        check(&watch, 90, 30, 40);
        watch.resume(at(95));
        check(&watch, 99, 30, 40);
    }
}
