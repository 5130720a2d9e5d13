//! What was printed, in pieces that know when and where, and what they weigh.

use std::collections::VecDeque;

use omnirun_agent_api::{Private, StreamLine, UnixMillis};

/// What a piece takes beside its text: its place in a queue that may be half empty, and a block of the heap. Without it a
/// program that prints single characters would fill the guest's memory within any bound on text.
pub const PIECE_BYTES: usize = 2 * size_of::<Piece>() + 32;
/// A piece that is shorter takes in what follows it in the same millisecond.
const SHORT_BYTES: usize = 16 * 1024;

/// Which stream something was printed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

struct Piece {
    channel: Channel,
    text: String,
    /// Where it begins, in bytes from the beginning of the output.
    start: u64,
    weight: usize,
    at: UnixMillis,
}

/// All of them in their order.
#[derive(Default)]
pub struct Pieces {
    queue: VecDeque<Piece>,
    /// Where the next one will begin.
    end: u64,
    weight: usize,
}

/// What a text weighs that becomes a piece of its own.
pub fn weight_of(text: &str) -> usize {
    PIECE_BYTES + json_length(text)
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

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.text.len() as u64
    }

    fn is_continued_by(&self, channel: Channel, at: UnixMillis) -> bool {
        self.channel == channel && self.at == at && self.text.len() < SHORT_BYTES
    }

    fn line(&self, from: u64) -> StreamLine {
        let text = usize::try_from(from - self.start).ok().and_then(|from| self.text.get(from..));
        let (data, timestamp) = (Private::from(text.unwrap_or_default()), self.at.into());
        match self.channel {
            Channel::Stdout => StreamLine::Stdout { data, timestamp },
            Channel::Stderr => StreamLine::Stderr { data, timestamp },
        }
    }
}

impl Pieces {
    /// What all of them weigh.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Adds what was printed.
    pub fn add(&mut self, channel: Channel, text: String, at: UnixMillis) {
        let start = self.end;
        self.end += text.len() as u64;
        if let Some(last) = self.queue.back_mut().filter(|last| last.is_continued_by(channel, at)) {
            let weight = json_length(&text);
            last.text.push_str(&text);
            last.weight += weight;
            self.weight += weight;
        } else {
            let weight = weight_of(&text);
            self.queue.push_back(Piece { channel, text, start, weight, at });
            self.weight += weight;
        }
    }

    /// Drops the oldest until the rest weighs no more than that.
    pub fn lighten(&mut self, weight_max: usize) {
        while self.weight > weight_max
            && let Some(oldest) = self.queue.pop_front()
        {
            self.weight -= oldest.weight;
        }
    }

    /// Everything of one stream.
    pub fn text(&self, channel: Channel) -> String {
        let of_channel = self.queue.iter().filter(|piece| piece.channel == channel);
        of_channel.map(|piece| piece.text.as_str()).collect()
    }

    /// What follows a place, which moves on. What was dropped shows as one line.
    pub fn next(&self, place: &mut u64) -> Option<StreamLine> {
        let from = *place;
        let first = self.queue.front().map_or(self.end, |piece| piece.start);
        if from < first {
            *place = first;
            return Some(StreamLine::Dropped { bytes: first - from });
        }
        let piece = self.queue.get(self.queue.partition_point(|piece| piece.end() <= from))?;
        *place = piece.end();
        Some(piece.line(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_counted_as_it_will_be_sent() {
        for text in ["plain ä", "a\"b\\c\n\t\r", "\u{0}\u{1f}\u{8}\u{c}\u{7f}"] {
            let sent = serde_json::to_string(text).expect("text is JSON");
            assert_eq!(json_length(text), sent.len() - 2);
        }
    }

    #[test]
    fn single_characters_are_not_kept_beyond_the_memory_that_they_take() {
        let mut pieces = Pieces::default();
        for n in 0..10_000 {
            let channel = if n % 2 == 0 { Channel::Stdout } else { Channel::Stderr };
            pieces.add(channel, ".".to_owned(), UnixMillis(0));
            pieces.lighten(100 * PIECE_BYTES);
        }
        assert!(pieces.queue.capacity() * size_of::<Piece>() <= 100 * PIECE_BYTES);
        assert!(pieces.queue.len() > 90, "{} are kept", pieces.queue.len());
    }

    #[test]
    fn what_one_stream_says_in_one_millisecond_is_one_piece_until_it_is_long() {
        let mut pieces = Pieces::default();
        for _ in 0..2 * SHORT_BYTES {
            pieces.add(Channel::Stdout, ".".to_owned(), UnixMillis(0));
        }
        assert_eq!(pieces.queue.len(), 2);
        pieces.add(Channel::Stderr, ".".to_owned(), UnixMillis(0));
        pieces.add(Channel::Stderr, ".".to_owned(), UnixMillis(1));
        assert_eq!((pieces.queue.len(), pieces.weight()), (4, 4 * PIECE_BYTES + 2 * SHORT_BYTES + 2));
        pieces.lighten(0);
        assert_eq!(pieces.weight(), 0);
    }
}
