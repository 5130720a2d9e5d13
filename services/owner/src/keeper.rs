//! The keeper of an owner in a jail: the process that was there before it and stays outside. It does what the owner
//! cannot do any more, and tidies up after it however it ends. It has no runtime, and nothing of the guest reaches it
//! but numbers.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
    time::Duration,
};

use omnirun_vmm::kvm::jail::{Event, Inmate, process::Watch};

use crate::{
    end::EndError,
    outside::{Files, MESSAGE_BYTES_MAX, Wish},
    voice::Voice,
};

/// How often the socket is looked for. Nothing but looking finds one that went with a whole mount, and the keeper looks
/// up this often anyway: for a wish to end that came just before it waited, and to repeat it to an owner that does not
/// listen yet.
const LOOK: Duration = Duration::from_secs(1);
/// How long an owner may take to take an answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// seccomp(2): what ends a process that makes a system call that its filter does not allow.
const BAD_CALL: i32 = 31;

/// The owner ended without a word.
#[derive(Debug, thiserror::Error)]
enum Death {
    #[error("the guest's process made a system call that its jail refuses, and was ended")]
    Refused,
    #[error("the guest's process was ended by signal {0}")]
    Signal(i32),
}

/// Lives as long as the owner, and ends as it does.
pub fn keep(inmate: &Inmate, files: &Files, voice: &Voice) -> ExitCode {
    let mut has_left = false;
    let mut watch = Watch::Channel;
    let code = loop {
        match inmate.wait(watch, LOOK) {
            Ok(Event::Said) => match serve(inmate.channel(), files) {
                Ok(Served::Left) => {
                    has_left = true;
                    // It ends by itself, and must: the guest's lock is held until it has.
                    inmate.terminate();
                }
                Ok(Served::Other) => {}
                // It has ended, or says what no owner says.
                Err(error) => {
                    watch = Watch::EndOnly;
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        inmate.kill();
                    }
                }
            },
            Ok(Event::Exited(code)) => break ExitCode::from(code),
            Ok(Event::Killed(signal)) => {
                voice.complain(&if signal == BAD_CALL { Death::Refused } else { Death::Signal(signal) });
                break ExitCode::FAILURE;
            }
            // No worker can find the guest any more: see `end::out_of_reach`.
            Ok(Event::Nothing) if !files.is_in_reach() && !has_left => inmate.terminate(),
            Ok(Event::Nothing) => {}
            Err(_) => break ExitCode::FAILURE,
        }
    };
    if !has_left && let Err(error) = files.abandon() {
        voice.complain(&EndError::TidyUp(error));
    }
    code
}

/// What was asked for.
enum Served {
    Left,
    Other,
}

fn serve(channel: &UnixStream, files: &Files) -> io::Result<Served> {
    channel.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
    // An owner writes a message in one piece: whoever does not shall not keep us.
    let mut text = [0; MESSAGE_BYTES_MAX as usize];
    let mut channel = channel;
    let length = channel.read(&mut text)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let nonsense = |_| io::Error::from(io::ErrorKind::InvalidData);
    let wish: Wish = serde_json::from_slice(&text[..length]).map_err(nonsense)?;
    let done = files.grant(&wish);
    let failure = done.as_ref().err().map(|error| error.to_string().replace('\n', " ")).unwrap_or_default();
    channel.write_all(format!("{failure}\n").as_bytes())?;
    Ok(if matches!(wish, Wish::Leave(_)) && done.is_ok() { Served::Left } else { Served::Other })
}
