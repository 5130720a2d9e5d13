//! The routes that start something: commands and code.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::StatusCode;
use omnirun_agent_api::{Language, Private, RunCode, Seconds, StartCommand, Started, Stdin};
use tokio::io::AsyncWriteExt;

use crate::{
    answer::{Handled, No, json, nothing, parse, to_json},
    barrier::{Guest, check_envs},
    command::{self, ARGUMENT_BYTES_MAX, Input, Keep, Program, Spawn},
    file, free, reap,
    repeat::Answered,
    user::{self, User},
};

/// How long a foreground command may run when its request does not say.
const TIMEOUT_DEFAULT: Seconds = Seconds(60);
/// The longest program text. It goes through a pipe, not through a file.
const CODE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// 0 stands for no limit.
fn limit(timeout: Option<Seconds>, default: Option<Seconds>) -> Option<Duration> {
    timeout.or(default).filter(|timeout| timeout.0 > 0).map(Seconds::duration)
}

fn working_directory(user: &User, cwd: Option<&Private>) -> Result<PathBuf, No> {
    cwd.map_or(Ok(user.home.clone()), |cwd| file::resolve(user, cwd.expose()))
}

/// `POST /commands`.
pub async fn start_command(guest: Arc<Guest>, body: Bytes) -> Result<Answered, No> {
    let wish: StartCommand = parse(&body)?;
    check_envs(&wish.envs)?;
    if wish.command.expose().len() > ARGUMENT_BYTES_MAX {
        return Err(No::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the command is longer than 128 KiB",
        ));
    }
    let user = user::find(wish.user.as_deref())?;
    let spawn = Spawn {
        program: Program { path: command::shell(), arguments: vec!["-c".into(), wish.command.clone()] },
        shown: wish.command,
        cwd: working_directory(&user, wish.cwd.as_ref())?,
        user,
        envs: wish.envs,
        stdin: if wish.background { Input::Open } else { Input::Empty },
        keep: if wish.background { Keep::Last } else { Keep::First },
    };
    let command = command::start(&guest, spawn, None)?;
    if wish.background {
        if let Some(after) = limit(wish.timeout, None) {
            tokio::spawn(command::limit(command.clone(), after));
        }
        return Ok(to_json(&Started { pid: command.pid }));
    }
    let limit = limit(wish.timeout, Some(TIMEOUT_DEFAULT));
    Ok(to_json(&command::run(&guest.commands, command, limit).await))
}

/// `POST /code`.
pub async fn run_code(guest: Arc<Guest>, body: Bytes) -> Result<Answered, No> {
    let wish: RunCode = parse(&body)?;
    check_envs(&wish.envs)?;
    let is_argument = wish.code.expose().len() <= ARGUMENT_BYTES_MAX;
    if wish.code.expose().len() > CODE_BYTES_MAX || !is_argument && wish.stdin.is_some() {
        let message = "the code is longer than 8 MiB, or than 128 KiB with a standard input of its own";
        return Err(No::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
    }
    let (path, from_stdin) = match wish.language {
        Language::Python => ("/usr/bin/python3", "-"),
        Language::Bash => ("/bin/bash", "-s"),
        Language::Sh => ("/bin/sh", "-s"),
    };
    // Never a file: short code is an argument, long code comes through standard input.
    let (arguments, stdin) = if is_argument {
        (vec!["-c".into(), wish.code.clone()], wish.stdin)
    } else {
        (vec![from_stdin.into()], Some(wish.code))
    };
    let user = user::find(wish.user.as_deref())?;
    let spawn = Spawn {
        program: Program { path, arguments },
        shown: "(code)".into(),
        cwd: working_directory(&user, wish.cwd.as_ref())?,
        user,
        envs: wish.envs,
        stdin: Input::Empty,
        keep: Keep::First,
    };
    let command = command::start(&guest, spawn, stdin)?;
    let limit = limit(wish.timeout, Some(TIMEOUT_DEFAULT));
    Ok(to_json(&command::run(&guest.commands, command, limit).await))
}

/// `POST /warm`, before a snapshot. Runs our own words only, as the default user would have them run; what is missing is left
/// out.
pub async fn warm() -> Result<(), No> {
    for (path, arguments) in
        [("/bin/bash", ["-c", "ls -l / | cat"]), ("/usr/bin/python3", ["-c", "import json, os, re"])]
    {
        let mut command = std::process::Command::new(path);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok((_, exited)) = reap::spawn(&mut command) {
            let _ = exited.await;
        }
    }
    // A snapshot without it is larger, and as good.
    let _ = tokio::task::spawn_blocking(free::fill_with_zeros).await;
    Ok(())
}

/// `POST /commands/{pid}/stdin`. Waits for as long as the program does not read.
pub async fn write_stdin(guest: &Guest, pid: &str, body: &Bytes) -> Handled {
    let wish: Stdin = parse(body)?;
    let command = guest.commands.get(pid)?;
    let mut stdin = command.stdin.lock().await;
    let closed = No::new(StatusCode::CONFLICT, "stdin_closed", "the command's standard input is closed");
    let Some(pipe) = stdin.as_mut() else { return Err(closed) };
    if pipe.write_all(wish.data.expose().as_bytes()).await.is_err() {
        stdin.take();
        return Err(closed);
    }
    if wish.eof {
        stdin.take();
    }
    Ok(nothing())
}

/// `DELETE /commands/{pid}`. Ending one that has ended changes nothing.
pub fn kill(guest: &Guest, pid: &str) -> Handled {
    guest.commands.get(pid)?.kill();
    Ok(nothing())
}

/// `GET /commands/{pid}`.
pub fn show(guest: &Guest, pid: &str) -> Handled {
    Ok(json(&guest.commands.get(pid)?.state_with_output()))
}
