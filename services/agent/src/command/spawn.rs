//! Starting a program in the guest: its user, directory, environment and pipes, and the readers of its output.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use hyper::StatusCode;
use omnirun_agent_api::Private;
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::oneshot, task::JoinHandle};

use super::{
    output::{BACKGROUND_BYTES_MAX, FOREGROUND_BYTES_MAX, Keep, Output},
    pieces::Channel,
    table::Command,
};
use crate::{answer::No, barrier::Guest, clock, reap, user::User};

/// Linux's limit for one argument, include/uapi/linux/binfmts.h MAX_ARG_STRLEN, with its final NUL.
pub const ARGUMENT_BYTES_MAX: usize = 128 * 1024 - 1;
/// After the end of a program, its output is read until the pipes are closed, but no longer than this: a child that
/// it left behind may keep them open for ever.
const DRAIN_MAX: Duration = Duration::from_millis(100);
/// Where programs are looked for, as in Debian's /etc/login.defs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and its arguments.
pub struct Program {
    pub path: &'static str,
    pub arguments: Vec<Private>,
}

/// What to start and how.
pub struct Spawn {
    pub program: Program,
    /// What the table shows.
    pub shown: Private,
    pub user: User,
    pub cwd: PathBuf,
    pub envs: BTreeMap<String, Private>,
    pub stdin: Input,
    pub keep: Keep,
}

/// What standard input is.
pub enum Input {
    /// At its end at once.
    Empty,
    /// Open, for a later request to write to.
    Open,
}

/// Starts a program. It is in the guest's table from then on.
pub fn start(guest: &Guest, wish: Spawn, stdin: Option<Private>) -> Result<Arc<Command>, No> {
    let (mut command, pipes) = prepare(guest, &wish)?;
    let (child, exited) = reap::spawn(&mut command).map_err(|error| refused(&error))?;
    drop(command); // closes this side's copies of the program's pipe ends
    let bytes_max = match wish.keep {
        Keep::First => FOREGROUND_BYTES_MAX,
        Keep::Last => BACKGROUND_BYTES_MAX,
    };
    let sender = match (stdin, wish.stdin) {
        (Some(text), _) => {
            feed(pipes.stdin, text);
            None
        }
        (None, Input::Open) => Some(pipes.stdin),
        (None, Input::Empty) => None,
    };
    let command = Arc::new(Command::new(child.id(), wish.shown, Output::new(wish.keep, bytes_max), sender));
    guest.commands.add(command.clone());
    let readers = [
        tokio::spawn(read(pipes.stdout, Channel::Stdout, command.clone())),
        tokio::spawn(read(pipes.stderr, Channel::Stderr, command.clone())),
    ];
    tokio::spawn(watch(command.clone(), exited, readers));
    Ok(command)
}

struct Pipes {
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

fn prepare(guest: &Guest, wish: &Spawn) -> Result<(std::process::Command, Pipes), No> {
    let (stdin_read, stdin_write) = io::pipe()?;
    let (stdout_read, stdout_write) = io::pipe()?;
    let (stderr_read, stderr_write) = io::pipe()?;
    let pipes = Pipes {
        stdin: pipe::Sender::from_file(nonblocking(stdin_write.into())?)?,
        stdout: pipe::Receiver::from_file(nonblocking(stdout_read.into())?)?,
        stderr: pipe::Receiver::from_file(nonblocking(stderr_read.into())?)?,
    };
    if !wish.cwd.is_dir() {
        return Err(No::invalid("bad_cwd", "the working directory is not there"));
    }
    let mut command = std::process::Command::new(wish.program.path);
    command.args(wish.program.arguments.iter().map(Private::expose));
    command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").env("SHELL", shell());
    command.env("HOME", &wish.user.home).env("USER", &wish.user.name).env("LOGNAME", &wish.user.name);
    command.envs(guest.envs().iter().map(|(name, value)| (name, value.expose())));
    command.envs(wish.envs.iter().map(|(name, value)| (name, value.expose())));
    command.current_dir(&wish.cwd).process_group(0);
    // std drops the supplementary groups as well when it changes the user of a root process.
    command.uid(wish.user.uid).gid(wish.user.gid);
    command
        .stdin(Stdio::from(stdin_read))
        .stdout(Stdio::from(stdout_write))
        .stderr(Stdio::from(stderr_write));
    Ok((command, pipes))
}

/// Bash where the guest has it.
pub fn shell() -> &'static str {
    if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(File::from(fd))
}

fn refused(error: &io::Error) -> No {
    match error.kind() {
        io::ErrorKind::NotFound => No::invalid("no_interpreter", "the guest has no interpreter for that"),
        io::ErrorKind::ArgumentListTooLong => No::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the command and its environment are too long",
        ),
        io::ErrorKind::InvalidInput => No::invalid("bad_command", "the command has a NUL character"),
        _ => No::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "guest_exhausted",
            "the guest cannot start another process",
        ),
    }
}

fn feed(mut stdin: pipe::Sender, text: Private) {
    tokio::spawn(async move {
        // A program that does not read its input closes the pipe; that is its right.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, text.expose().as_bytes()).await;
    });
}

/// Reads one stream to its end. A character that is cut by a read waits for its rest.
async fn read(mut pipe: pipe::Receiver, channel: Channel, command: Arc<Command>) {
    let mut buffer = vec![0; 32 * 1024];
    let mut start = 0;
    loop {
        let count = pipe.read(&mut buffer[start..]).await.unwrap_or(0);
        let filled = start + count;
        let whole = if count == 0 { filled } else { whole_characters(&buffer[..filled]) };
        // After the exit line nothing may follow, yet the pipe must be emptied or its writer would block.
        if whole > 0 && command.output.exit_code().is_none() {
            command.output.push(
                channel,
                String::from_utf8_lossy(&buffer[..whole]).into_owned(),
                clock::now(),
            );
        }
        if count == 0 {
            return;
        }
        buffer.copy_within(whole..filled, 0);
        start = filled - whole;
    }
}

/// How many of the bytes are whole characters, or can never become one: all but at most three at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return bytes.len(),
        };
        return if length > back { bytes.len() - back } else { bytes.len() };
    }
    bytes.len()
}

async fn watch(command: Arc<Command>, exited: oneshot::Receiver<i32>, readers: [JoinHandle<()>; 2]) {
    let code = exited.await.unwrap_or(255);
    let all_read = async {
        for reader in readers {
            let _ = reader.await;
        }
    };
    let _ = tokio::time::timeout(DRAIN_MAX, all_read).await;
    command.end(code);
    // Last, since a writer holds it for as long as a child left behind has the pipe and does not read.
    command.stdin.lock().await.take();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_noted_while_a_child_left_behind_keeps_a_writer_waiting() {
        let command = Arc::new(Command::new(1, "".into(), Output::new(Keep::Last, 0), None));
        let _writer = command.stdin.lock().await;
        let (tell, exited) = oneshot::channel();
        tell.send(3).expect("it is asked");
        let mut changes = command.output.changes();
        tokio::spawn(watch(command.clone(), exited, [tokio::spawn(async {}), tokio::spawn(async {})]));
        let noted = tokio::time::timeout(Duration::from_secs(10), changes.changed()).await;
        noted.expect("it does not wait for the writer").expect("the command is there");
        assert_eq!(command.output.exit_code(), Some(3));
    }

    #[test]
    fn only_an_unfinished_character_waits() {
        let text = "aé€😀".as_bytes();
        for cut in 0..=text.len() {
            let whole = whole_characters(&text[..cut]);
            assert!(std::str::from_utf8(&text[..whole]).is_ok() && cut - whole < 4);
        }
        assert_eq!(whole_characters(&[0xff, 0x80, 0x80, 0x80, 0x80]), 5);
    }
}
