//! Messages about commands and code that run in the guest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Private, Seconds, Timestamp};

/// Starts a command through `bash -c` (`sh -c` where there is no bash).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartCommand {
    /// The command line; at most 128 KiB, which is Linux's limit for one argument.
    pub command: Private,
    /// After this long the command's process group is killed and the exit code is 124; 0 = no limit. Default: 60
    /// in the foreground, no limit in the background.
    #[serde(default)]
    pub timeout: Option<Seconds>,
    /// Directory to start in; default: the user's home.
    #[serde(default)]
    pub cwd: Option<Private>,
    /// Environment in addition to the sandbox's own.
    #[serde(default)]
    pub envs: BTreeMap<String, Private>,
    /// Name of a user of the guest; default `user`.
    #[serde(default)]
    pub user: Option<String>,
    /// Answer with the pid at once instead of the outcome at the end.
    #[serde(default)]
    pub background: bool,
}

/// Languages that code may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Python 3.
    #[serde(alias = "python3", alias = "py")]
    Python,
    /// Bash.
    Bash,
    /// The POSIX shell.
    #[serde(alias = "shell")]
    Sh,
}

/// Runs code in a process of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunCode {
    /// The program text; at most 8 MiB.
    pub code: Private,
    /// Its language.
    pub language: Language,
    /// As in [`StartCommand::timeout`]; default 60.
    #[serde(default)]
    pub timeout: Option<Seconds>,
    /// As in [`StartCommand::cwd`].
    #[serde(default)]
    pub cwd: Option<Private>,
    /// As in [`StartCommand::envs`].
    #[serde(default)]
    pub envs: BTreeMap<String, Private>,
    /// As in [`StartCommand::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// Text on the program's standard input; default: empty.
    #[serde(default)]
    pub stdin: Option<Private>,
}

/// How a command or a piece of code ended.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Standard output; bytes that are not UTF-8 are replaced by U+FFFD.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// The exit status; 128 + n when signal n ended it, 124 when the time limit did.
    pub exit_code: i32,
    /// Present and true when output was dropped because the answer would have been longer than 16 MiB.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Present and true when the time limit ended it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outcome(exit {}, {} + {} bytes)", self.exit_code, self.stdout.len(), self.stderr.len())
    }
}

/// The answer to a command started in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Process id in the guest, which is also the id of its process group.
    pub pid: u32,
}

/// One command that the guest runs or ran. Ended ones are forgotten after an hour, or when there are more than 256, or
/// when their output takes more than an eighth of the guest's memory; the oldest go first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommandState {
    /// Process id in the guest.
    pub pid: u32,
    /// The command line.
    pub command: Private,
    /// Whether it still runs.
    pub running: bool,
    /// As in [`Outcome`]; null while it runs.
    pub exit_code: Option<i32>,
    /// Output kept so far, only when one command was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Private>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Private>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended; null while it runs.
    pub ended_at: Option<Timestamp>,
}

/// Text for the standard input of a background command.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stdin {
    /// The text, as it is: no line end is added.
    #[serde(default)]
    pub data: Private,
    /// Closes the standard input after the text.
    #[serde(default)]
    pub eof: bool,
}

/// One line of a command's output stream. What was printed before the subscription comes first; `exit` comes last.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamLine {
    /// Output.
    Stdout {
        /// What was printed, cut at a character's end.
        data: Private,
        /// When it was read.
        timestamp: Timestamp,
    },
    /// Error output.
    Stderr {
        /// What was printed, cut at a character's end.
        data: Private,
        /// When it was read.
        timestamp: Timestamp,
    },
    /// Output between the lines around this one was dropped: the reader was too slow or came too late.
    Dropped {
        /// How much.
        bytes: u64,
    },
    /// The command ended.
    Exit {
        /// As in [`Outcome`].
        exit_code: i32,
    },
}
