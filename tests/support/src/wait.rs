//! Waiting for a state, with a limit: how a test goes on without guessing how long something takes.

use std::time::{Duration, Instant};

/// How often the state is looked at.
const EVERY: Duration = Duration::from_millis(5);

/// Looks again and again until `probe` finds something; none when `limit` has passed. Blocks the thread.
pub fn wait_until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(EVERY);
    }
}
