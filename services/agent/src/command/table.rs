//! The table of commands, so that they can be listed, asked about, written to and ended.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use omnirun_agent_api::{CommandState, Private, Timestamp};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{net::unix::pipe, sync::Mutex as AsyncMutex};

use super::{output::Output, pieces::Channel};
use crate::{answer::No, clock};

/// Ended commands kept for questions about them.
const ENDED_MAX: usize = 256;
/// And for how long.
const ENDED_AGE_MAX: Duration = Duration::from_secs(3600);

/// One command that runs or ran.
pub struct Command {
    pub pid: u32,
    pub text: Private,
    pub started_at: Timestamp,
    pub output: Output,
    pub stdin: AsyncMutex<Option<pipe::Sender>>,
    ended: Mutex<Option<(Timestamp, Instant)>>,
}

/// All of them by pid.
#[derive(Default)]
pub struct Commands(Mutex<BTreeMap<u32, Arc<Command>>>);

impl Command {
    pub fn new(pid: u32, text: Private, output: Output, stdin: Option<pipe::Sender>) -> Self {
        Self {
            pid,
            text,
            started_at: clock::stamp(),
            output,
            stdin: AsyncMutex::new(stdin),
            ended: Mutex::new(None),
        }
    }

    /// Ends the whole process group at once. Harmless when it has ended.
    pub fn kill(&self) {
        // A pid may be used again once its command is over, so ask first.
        if self.output.exit_code().is_none()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Notes the end.
    pub fn end(&self, code: i32) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some((clock::stamp(), Instant::now()));
        self.output.exit(code);
    }

    fn ended(&self) -> Option<(Timestamp, Instant)> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of it, without its output.
    pub fn state(&self) -> CommandState {
        let exit_code = self.output.exit_code();
        CommandState {
            pid: self.pid,
            command: self.text.clone(),
            running: exit_code.is_none(),
            exit_code,
            stdout: None,
            stderr: None,
            started_at: self.started_at.clone(),
            ended_at: self.ended().map(|(at, _)| at),
        }
    }

    /// What is known of it, with the output that is kept.
    pub fn state_with_output(&self) -> CommandState {
        let text = |channel| Some(Private::from(self.output.text(channel).0));
        CommandState { stdout: text(Channel::Stdout), stderr: text(Channel::Stderr), ..self.state() }
    }
}

impl Commands {
    fn table(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Command>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one and forgets those that ended long ago.
    pub fn add(&self, command: Arc<Command>) {
        let mut table = self.table();
        table.retain(|_, command| command.ended().is_none_or(|(_, at)| at.elapsed() < ENDED_AGE_MAX));
        let mut ended: Vec<_> =
            table.values().filter_map(|command| Some((command.ended()?.1, command.pid))).collect();
        ended.sort_unstable();
        for (_, pid) in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            table.remove(pid);
        }
        table.insert(command.pid, command);
    }

    /// Forgets one: a foreground command whose answer has been given.
    pub fn remove(&self, pid: u32) {
        self.table().remove(&pid);
    }

    /// Every one, by pid.
    pub fn list(&self) -> Vec<CommandState> {
        self.table().values().map(|command| command.state()).collect()
    }

    /// One by the text of its pid.
    pub fn get(&self, pid: &str) -> Result<Arc<Command>, No> {
        let pid: Option<u32> = pid.parse().ok();
        pid.and_then(|pid| self.table().get(&pid).cloned())
            .ok_or(No::not_found("the guest knows no command with that pid"))
    }
}
