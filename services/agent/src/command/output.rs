//! What a command has printed, kept in guest memory with a bound.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use omnirun_agent_api::{Private, StreamLine, Timestamp};
use tokio::sync::watch;

/// Output kept of a foreground command, both streams together, counted as the JSON text that its answer will be: a
/// NUL is six bytes there, and an answer larger than the guest's memory would end the guest.
pub const FOREGROUND_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Output kept of a background command for those who subscribe later, counted likewise.
pub const BACKGROUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which stream something was printed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// Which part is kept of output that is more than may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The beginning: the answer of a foreground command is cut.
    First,
    /// The end: who follows a background command wants its last words.
    Last,
}

struct Piece {
    channel: Channel,
    text: String,
    weight: usize,
    at: Timestamp,
}

#[derive(Default)]
struct Kept {
    pieces: VecDeque<Piece>,
    /// Pieces dropped from the front.
    skipped: u64,
    weight: usize,
    bytes_dropped: u64,
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
    piece: u64,
    bytes_dropped: u64,
    is_after_exit: bool,
}

/// Bytes of a text inside JSON: RFC 8259 section 7 with the short escapes that serde_json uses.
fn json_length(text: &str) -> usize {
    let of = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(of).sum()
}

impl Output {
    pub fn new(keep: Keep, bytes_max: usize) -> Self {
        Self { keep, bytes_max, kept: Mutex::default(), changes: watch::Sender::new(0) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was printed.
    pub fn push(&self, channel: Channel, text: String, at: Timestamp) {
        let mut kept = self.kept();
        let weight = json_length(&text);
        // Once something is missing nothing may follow it, or the answer would join what was never together.
        if self.keep == Keep::First && (kept.bytes_dropped > 0 || kept.weight + weight > self.bytes_max) {
            kept.bytes_dropped += text.len() as u64;
            return;
        }
        kept.weight += weight;
        kept.pieces.push_back(Piece { channel, text, weight, at });
        while kept.weight > self.bytes_max
            && let Some(oldest) = kept.pieces.pop_front()
        {
            kept.weight -= oldest.weight;
            kept.bytes_dropped += oldest.text.len() as u64;
            kept.skipped += 1;
        }
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

    /// Everything kept of one stream, and whether anything was dropped of either.
    pub fn text(&self, channel: Channel) -> (String, bool) {
        let kept = self.kept();
        let text = kept
            .pieces
            .iter()
            .filter(|piece| piece.channel == channel)
            .map(|piece| piece.text.as_str())
            .collect();
        (text, kept.bytes_dropped > 0)
    }

    /// The line at a place, which moves on. Dropped output shows as one line in the place of what is missing.
    pub fn next(&self, place: &mut Place) -> Next {
        let kept = self.kept();
        if self.keep == Keep::Last && place.piece < kept.skipped {
            let bytes = kept.bytes_dropped - place.bytes_dropped;
            *place = Place { piece: kept.skipped, bytes_dropped: kept.bytes_dropped, ..*place };
            return Next::Line(StreamLine::Dropped { bytes });
        }
        let index = usize::try_from(place.piece - kept.skipped).unwrap_or(usize::MAX);
        if let Some(piece) = kept.pieces.get(index) {
            place.piece += 1;
            let (data, timestamp) = (Private::from(piece.text.as_str()), piece.at.clone());
            return Next::Line(match piece.channel {
                Channel::Stdout => StreamLine::Stdout { data, timestamp },
                Channel::Stderr => StreamLine::Stderr { data, timestamp },
            });
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

    fn push(output: &Output, text: &str) {
        output.push(Channel::Stdout, text.to_owned(), Timestamp(String::new()));
    }

    fn read_all(output: &Output) -> Vec<String> {
        let mut place = Place::default();
        let mut lines = Vec::new();
        loop {
            match output.next(&mut place) {
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
        let output = Output::new(Keep::Last, 100);
        push(&output, "a");
        push(&output, "b");
        assert_eq!(read_all(&output), ["a", "b", "wait"]);
        output.exit(3);
        assert_eq!(read_all(&output), ["a", "b", "exit 3"]);
    }

    #[test]
    fn the_oldest_output_of_a_background_command_is_dropped_and_the_reader_is_told() {
        let output = Output::new(Keep::Last, 4);
        for text in ["aa", "bb", "cc"] {
            push(&output, text);
        }
        output.exit(0);
        assert_eq!(read_all(&output), ["dropped 2", "bb", "cc", "exit 0"]);
    }

    #[test]
    fn output_is_counted_as_it_will_be_sent() {
        for text in ["plain ä", "a\"b\\c\n\t\r", "\u{0}\u{1f}\u{8}\u{c}\u{7f}"] {
            let sent = serde_json::to_string(text).expect("text is JSON");
            assert_eq!(json_length(text), sent.len() - 2);
        }
    }

    #[test]
    fn a_foreground_command_keeps_the_beginning_and_nothing_after_the_first_gap() {
        let output = Output::new(Keep::First, 5);
        for text in ["aa", "bb", "cc", "d"] {
            push(&output, text);
        }
        assert_eq!(output.text(Channel::Stdout), ("aabb".to_owned(), true));
    }
}
