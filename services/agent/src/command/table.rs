//! The table of commands, so that they can be listed, asked about, written to and ended.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use omnirun_agent_api::{CommandState, Private, Timestamp};
use rustix::{
    process::{Pid, Signal, kill_process_group},
    system::sysinfo,
};
use tokio::{net::unix::pipe, sync::Mutex as AsyncMutex};

use super::{output::Output, pieces::Channel};
use crate::{answer::No, clock};

/// Ended commands kept for questions about them.
const ENDED_MAX: usize = 256;
/// And for how long.
const ENDED_AGE_MAX: Duration = Duration::from_secs(3600);
/// And which part of the guest's memory may hold what they printed: an eighth.
const ENDED_SHARE: u64 = 8;

/// One command that runs or ran.
pub struct Command {
    pub pid: u32,
    pub text: Private,
    pub started_at: Timestamp,
    pub output: Output,
    pub stdin: AsyncMutex<Option<pipe::Sender>>,
    ended: Mutex<Option<(Timestamp, Instant)>>,
}

type Table = BTreeMap<u32, Arc<Command>>;

/// All of them by pid.
pub struct Commands {
    table: Mutex<Table>,
    ended_bytes_max: usize,
}

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

    fn bytes(&self) -> usize {
        self.text.expose().len() + self.output.bytes()
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

impl Default for Commands {
    fn default() -> Self {
        let memory = sysinfo();
        let share = memory.totalram.saturating_mul(memory.mem_unit.into()) / ENDED_SHARE;
        Self { table: Mutex::default(), ended_bytes_max: usize::try_from(share).unwrap_or(usize::MAX) }
    }
}

impl Commands {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one and forgets those that ended long ago, or before too many others.
    pub fn add(&self, command: Arc<Command>) {
        let mut table = self.table();
        self.forget_ended(&mut table);
        table.insert(command.pid, command);
    }

    fn forget_ended(&self, table: &mut Table) {
        let ended = table.values().filter_map(|command| Some((command.ended()?.1, command.clone())));
        let mut ended: Vec<_> = ended.collect();
        ended.sort_unstable_by_key(|(at, _)| Reverse(*at));
        let mut bytes = 0;
        for (newer, (at, command)) in ended.into_iter().enumerate() {
            bytes += command.bytes();
            if newer >= ENDED_MAX || bytes > self.ended_bytes_max || at.elapsed() >= ENDED_AGE_MAX {
                table.remove(&command.pid);
            }
        }
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

#[cfg(test)]
mod tests {
    use omnirun_agent_api::UnixMillis;

    use super::*;
    use crate::command::output::Keep;

    fn add(commands: &Commands, pid: u32, printed: &str) -> Arc<Command> {
        let command = Arc::new(Command::new(pid, "true".into(), Output::new(Keep::Last, 10_000), None));
        command.output.push(Channel::Stdout, printed.into(), UnixMillis(0));
        commands.add(command.clone());
        command
    }

    fn pids(commands: &Commands) -> Vec<u32> {
        commands.list().into_iter().map(|command| command.pid).collect()
    }

    #[test]
    fn of_what_ended_the_oldest_is_forgotten_when_there_is_too_much_and_nothing_that_runs() {
        let printed = "x".repeat(1000);
        let commands = Commands { ended_bytes_max: 2500, ..Commands::default() };
        add(&commands, 1, &printed);
        for pid in [5, 4, 3, 2] {
            add(&commands, pid, &printed).end(0);
        }
        add(&commands, 6, &printed);
        assert_eq!(pids(&commands), [1, 2, 3, 6]);
    }

    #[test]
    fn of_what_ended_no_more_than_so_many_are_kept() {
        let commands = Commands { ended_bytes_max: usize::MAX, ..Commands::default() };
        for pid in 1..=300 {
            add(&commands, pid, "").end(0);
        }
        add(&commands, 301, "");
        assert_eq!(pids(&commands), (45..=301).collect::<Vec<_>>());
    }
}
