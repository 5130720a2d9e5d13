//! Waiting for a command: its outcome as one answer, or its output as a stream.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use omnirun_agent_api::Outcome;

use super::{
    output::{Next, Place},
    pieces::Channel,
    table::{Command, Commands},
};
use crate::answer::{Body, to_json};

/// The exit code of a command that its time limit ended: the one of timeout(1).
const TIMED_OUT: i32 = 124;

/// How the lines of a stream are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One JSON text a line.
    Lines,
    /// Server-sent events, a JSON text each.
    Events,
}

/// Kills and forgets a command that nobody waits for any more.
struct EndOnDrop<'a> {
    commands: &'a Commands,
    command: Arc<Command>,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.command.kill();
        self.commands.remove(self.command.pid);
    }
}

/// Waits for the end and takes the command out of the table. Past the limit, or when the caller goes away, the process
/// group is killed.
pub async fn run(commands: &Commands, command: Arc<Command>, limit: Option<Duration>) -> Outcome {
    let _guard = EndOnDrop { commands, command: command.clone() };
    let timed_out = match limit {
        None => {
            ended(&command).await;
            false
        }
        Some(limit) => {
            let in_time = tokio::time::timeout(limit, ended(&command)).await.is_ok();
            if !in_time {
                command.kill();
                ended(&command).await;
            }
            !in_time
        }
    };
    let (stdout, truncated) = command.output.text(Channel::Stdout);
    let (stderr, _) = command.output.text(Channel::Stderr);
    let exit_code = if timed_out { TIMED_OUT } else { command.output.exit_code().unwrap_or(255) };
    Outcome { stdout, stderr, exit_code, truncated, timed_out }
}

/// Kills a background command when its limit has passed.
pub async fn limit(command: Arc<Command>, limit: Duration) {
    if tokio::time::timeout(limit, ended(&command)).await.is_err() {
        command.kill();
    }
}

async fn ended(command: &Command) {
    let mut changes = command.output.changes();
    while command.output.exit_code().is_none() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The output from its beginning, as it comes, with the exit at the end. A reader that goes away changes nothing.
pub fn stream(command: Arc<Command>, framing: Framing) -> Body {
    let changes = command.output.changes();
    let lines = stream::unfold(
        (command, Place::default(), changes),
        move |(command, mut place, mut changes)| async move {
            loop {
                changes.borrow_and_update();
                match command.output.next(&mut place) {
                    Next::End => return None,
                    Next::Wait => changes.changed().await.ok()?,
                    Next::Line(line) => {
                        let text = to_json(&line);
                        let bytes: Bytes = match framing {
                            Framing::Lines => [&text[..], b"\n"].concat().into(),
                            Framing::Events => [b"data: ", &text[..], b"\n\n"].concat().into(),
                        };
                        return Some((Ok::<_, io::Error>(Frame::data(bytes)), (command, place, changes)));
                    }
                }
            }
        },
    );
    BodyExt::boxed_unsync(StreamBody::new(lines))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    use super::*;
    use crate::command::output::{Keep, Output};

    #[tokio::test]
    async fn a_foreground_command_whose_caller_went_away_is_killed_and_forgotten() {
        let mut child =
            std::process::Command::new("sleep").arg("1000").process_group(0).spawn().expect("sleep is there");
        let commands = Commands::default();
        let command = Arc::new(Command::new(child.id(), "".into(), Output::new(Keep::First, 0), None));
        commands.add(command.clone());
        assert!(tokio::time::timeout(Duration::ZERO, run(&commands, command, None)).await.is_err());
        assert_eq!(child.wait().expect("it is our child").signal(), Some(9));
        assert!(commands.list().is_empty());
    }
}
