//! Running until it is time to stop: signals, parts that end by themselves, and the line that says that a role is ready.

use std::io::Write as _;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// The parts of a role that run beside each other; each answers its name when it ends, which none should do by itself.
pub type Tasks = JoinSet<&'static str>;

/// Waits for SIGINT or SIGTERM (none) or for a part that ended by itself (its name).
pub async fn until_stopped(tasks: &mut Tasks) -> Result<Option<&'static str>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
        // A role without other parts waits for the signal alone.
        Some(ended) = tasks.join_next() => Ok(Some(ended.unwrap_or("a part"))),
    }
}

/// What a role answers after it has stopped in order.
pub fn outcome(ended: Option<&'static str>) -> Result<()> {
    match ended {
        None => Ok(()),
        Some(part) => anyhow::bail!("{part} has ended; the log says why"),
    }
}

/// Says on standard output that a role is ready; `at` is where it is reached, if anywhere. Supervisors and scripts wait for the line.
pub fn say_ready(role: &str, at: &str) {
    let mut out = std::io::stdout();
    // Nobody listens: then nobody waits for it either.
    drop(writeln!(out, "omnirun {role} is ready{at}").and_then(|()| out.flush()));
}
