//! What a command has printed, kept in guest memory with a bound.

use std::sync::{Mutex, MutexGuard, PoisonError};

use omnirun_agent_api::{StreamLine, UnixMillis};
use tokio::sync::watch;

use super::pieces::{Channel, Pieces, weight_of};

/// Output kept of a foreground command, both streams together, counted as the JSON text that its answer will be: a
/// NUL is six bytes there, and an answer larger than the guest's memory would end the guest.
pub const FOREGROUND_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Output kept of a background command for those who subscribe later, counted likewise.
pub const BACKGROUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which part is kept of output that is more than may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The beginning: the answer of a foreground command is cut.
    First,
    /// The end: who follows a background command wants its last words.
    Last,
}

#[derive(Default)]
struct Kept {
    pieces: Pieces,
    is_cut: bool,
    exit_code: Option<i32>,
}

/// A command's output. Writers push, any number of readers follow.
pub struct Output {
    keep: Keep,
    bytes_max: usize,
    kept: Mutex<Kept>,
    changes: watch::Sender<u64>,
}

/// What a reader finds after what it has read.
pub enum Next {
    Line(StreamLine),
    /// Nothing yet.
    Wait,
    /// Nothing ever: the exit was the last line.
    End,
}

/// A reader's place in the output.
#[derive(Debug, Default, Clone, Copy)]
pub struct Place {
    /// Bytes before it.
    at: u64,
    is_after_exit: bool,
}

impl Output {
    pub fn new(keep: Keep, bytes_max: usize) -> Self {
        Self { keep, bytes_max, kept: Mutex::default(), changes: watch::Sender::new(0) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was printed.
    pub fn push(&self, channel: Channel, text: String, at: UnixMillis) {
        let mut kept = self.kept();
        if self.keep == Keep::First {
            // Once something is missing nothing may follow it, or the answer would join what was never together.
            kept.is_cut |= kept.pieces.weight() + weight_of(&text) > self.bytes_max;
            if kept.is_cut {
                return;
            }
        }
        kept.pieces.add(channel, text, at);
        kept.pieces.lighten(self.bytes_max);
        drop(kept);
        self.changes.send_modify(|n| *n += 1);
    }

    /// Notes the end. What is printed after it, by a child that outlived its parent, is dropped by the caller.
    pub fn exit(&self, code: i32) {
        self.kept().exit_code = Some(code);
        self.changes.send_modify(|n| *n += 1);
    }

    /// The exit code, once there is one.
    pub fn exit_code(&self) -> Option<i32> {
        self.kept().exit_code
    }

    /// A mark that moves with every change; take it before reading.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// About how much memory what is kept takes.
    pub fn bytes(&self) -> usize {
        self.kept().pieces.weight()
    }

    /// Everything kept of one stream, and whether the end of the output was cut off.
    pub fn text(&self, channel: Channel) -> (String, bool) {
        let kept = self.kept();
        (kept.pieces.text(channel), kept.is_cut)
    }

    /// The line at a place, which moves on. Dropped output shows as one line in the place of what is missing.
    pub fn next(&self, place: &mut Place) -> Next {
        let kept = self.kept();
        if let Some(line) = kept.pieces.next(&mut place.at) {
            return Next::Line(line);
        }
        match kept.exit_code {
            None => Next::Wait,
            Some(_) if place.is_after_exit => Next::End,
            Some(exit_code) => {
                place.is_after_exit = true;
                Next::Line(StreamLine::Exit { exit_code })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes them, each at a time of its own.
    fn push(output: &Output, texts: &[&str]) {
        for (at, text) in (0..).zip(texts) {
            output.push(Channel::Stdout, (*text).to_owned(), UnixMillis(at));
        }
    }

    fn read_all(output: &Output) -> Vec<String> {
        read_from(output, &mut Place::default())
    }

    fn read_from(output: &Output, place: &mut Place) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match output.next(place) {
                Next::Line(StreamLine::Stdout { data, .. } | StreamLine::Stderr { data, .. }) => {
                    lines.push(data.into_inner());
                }
                Next::Line(StreamLine::Dropped { bytes }) => lines.push(format!("dropped {bytes}")),
                Next::Line(StreamLine::Exit { exit_code }) => lines.push(format!("exit {exit_code}")),
                Next::Wait => lines.push("wait".into()),
                Next::End => return lines,
            }
            if lines.last().is_some_and(|line| line == "wait") {
                return lines;
            }
        }
    }

    #[test]
    fn a_late_reader_gets_everything_that_is_kept_and_then_the_exit() {
        let output = Output::new(Keep::Last, 1000);
        push(&output, &["a", "b"]);
        assert_eq!(read_all(&output), ["a", "b", "wait"]);
        output.exit(3);
        assert_eq!(read_all(&output), ["a", "b", "exit 3"]);
    }

    #[test]
    fn the_oldest_output_of_a_background_command_is_dropped_and_the_reader_is_told() {
        let output = Output::new(Keep::Last, 2 * weight_of("aa"));
        push(&output, &["aa", "bb", "cc"]);
        output.exit(0);
        assert_eq!(read_all(&output), ["dropped 2", "bb", "cc", "exit 0"]);
    }

    #[test]
    fn a_reader_gets_the_rest_of_a_piece_that_has_grown_since() {
        let output = Output::new(Keep::Last, 1000);
        let mut place = Place::default();
        for text in ["a", "b"] {
            push(&output, &[text]);
            assert_eq!(read_from(&output, &mut place), [text, "wait"]);
        }
        assert_eq!(read_all(&output), ["ab", "wait"]);
    }

    #[test]
    fn a_foreground_command_keeps_the_beginning_and_nothing_after_the_first_gap() {
        let output = Output::new(Keep::First, 2 * weight_of("aa") + weight_of("d"));
        push(&output, &["aa", "bb", "cc", "d"]);
        assert_eq!(output.text(Channel::Stdout), ("aabb".to_owned(), true));
    }
}
