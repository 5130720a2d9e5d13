//! Running until it is time to stop: signals, parts that end by themselves, and the line that says that a role is ready.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

/// The parts of a role that run beside each other; each answers its name when it ends, which none should do by itself.
pub type Tasks = JoinSet<&'static str>;

/// The signals that ask a role to stop in order.
///
/// Listened to before a role says that it is ready, so that whoever waited for that may stop it at once; not while it starts, so that
/// a start that takes long can be broken off.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From here on neither signal ends the process by itself.
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for SIGINT or SIGTERM (none) or for a part that ended by itself (its name).
    pub async fn or_ended(&mut self, tasks: &mut Tasks) -> Option<&'static str> {
        tokio::select! {
            _ = self.interrupt.recv() => None,
            _ = self.terminate.recv() => None,
            // A role without other parts waits for the signal alone.
            Some(ended) = tasks.join_next() => Some(ended.unwrap_or("a part")),
        }
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
