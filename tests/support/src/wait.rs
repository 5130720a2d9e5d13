//! Waiting for a state, with a limit: how a test goes on without guessing how long something takes.

use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How often the state is looked at.
const EVERY: Duration = Duration::from_millis(5);
/// How often somebody is asked for it.
const ASK_EVERY: Duration = Duration::from_millis(50);

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

/// As [`wait_until`], for what has to be asked and may fail: an error ends the wait, and so does the limit, even of a question that nobody answers.
pub async fn eventually<T>(
    limit: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let asked = async {
        loop {
            if let Some(found) = probe().await? {
                return Ok(found);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::time::timeout(limit, asked).await.with_context(|| format!("not so after {limit:?}"))?
}
