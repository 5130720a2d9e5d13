//! What an owner process says on standard error: a line for each thing, which names its guest. The worker that would
//! read it may be gone, which is no reason to panic.
//!
//! An owner in its jail has no descriptor of the host's: its standard error is a pipe to its keeper, which names the guest
//! itself, and repeats what is said line by line and not without end.

use std::{
    error::Error,
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write},
    thread::{self, JoinHandle},
};

/// The longest line that a keeper repeats in one piece.
const LINE_BYTES_MAX: u64 = 4096;
/// The most that a keeper repeats. An owner says some hundred bytes in its life.
const SAID_BYTES_MAX: usize = 64 << 10;
/// Stack of a keeper's thread that listens: a line and a few calls.
const STACK_BYTES: usize = 64 << 10;

/// Who speaks.
#[derive(Debug, Clone)]
pub struct Voice {
    /// Before every line.
    name: String,
}

impl Voice {
    /// Of a process that does not know its guest yet.
    pub fn nameless() -> Self {
        Self { name: "omnirun vmm: ".to_owned() }
    }

    /// Of the guest with this name.
    pub fn of(vm_id: &str) -> Self {
        Self { name: format!("omnirun vmm: {vm_id}: ") }
    }

    /// Of an owner whose keeper adds the name.
    pub fn to_keeper() -> Self {
        Self { name: String::new() }
    }

    /// Says a sentence.
    pub fn say(&self, sentence: &str) {
        // In one piece: other processes write to the same place.
        let line = format!("{}{sentence}\n", self.name);
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Says what failed, with its causes.
    pub fn complain(&self, error: &(dyn Error + 'static)) {
        self.say(&with_causes(error));
    }

    /// Repeats what comes out of a pipe until nobody has its other end any more.
    pub fn repeat(self, pipe: PipeReader) -> io::Result<JoinHandle<()>> {
        let listen = move || repeat_all(BufReader::new(pipe), |line| self.say(line));
        thread::Builder::new().name("voice".to_owned()).stack_size(STACK_BYTES).spawn(listen)
    }
}

fn repeat_all(mut pipe: impl BufRead, mut say: impl FnMut(&str)) {
    let mut left = SAID_BYTES_MAX;
    let mut line = Vec::new();
    while (&mut pipe).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // Whoever has taken over the owner chooses these bytes: none of them may move a terminal's cursor.
        let text: String = String::from_utf8_lossy(&line).trim_end().chars().map(harmless).collect();
        match left.checked_sub(text.len() + 1) {
            Some(rest) => {
                left = rest;
                say(&text);
            }
            // It is listened to further, so that it never waits for a reader.
            None if left > 0 => {
                left = 0;
                say("it says more than is repeated here");
            }
            None => {}
        }
        line.clear();
    }
}

fn harmless(c: char) -> char {
    if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }
}

/// An error with its causes, in a line.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Has everything that this process says from now on go into the pipe.
pub fn speak_into(pipe: &PipeWriter) -> io::Result<()> {
    Ok(rustix::stdio::dup2_stderr(pipe)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeated(said: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        repeat_all(said, |line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_repeated_without_what_moves_a_cursor() {
        assert_eq!(repeated(b"one\nt\x1b[2Jwo\xff\nend"), ["one", "t\u{fffd}[2Jwo\u{fffd}", "end"]);
        assert!(repeated(b"").is_empty());
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_too_much_is_said_to_be_left_out() {
        assert_eq!(repeated(&[b'a'; 5000]).iter().map(String::len).collect::<Vec<_>>(), [4096, 904]);
        let flood = repeated(&b"0123456789\n".repeat(100_000));
        assert_eq!(flood.iter().filter(|line| line.starts_with('0')).count(), SAID_BYTES_MAX / 11);
        assert_eq!(flood.last().map(String::as_str), Some("it says more than is repeated here"));
        assert_eq!(flood.len(), SAID_BYTES_MAX / 11 + 1);
    }
}
