//! The inverse of what the driver reads: inputs that mean something, for the corpus.

use crate::driver::{ANY_LENGTH, FILLED, INDIRECT, NUMBERS, WRITE};

/// A part that the device reads: an address (even, below 0x20000) and what is there.
pub fn reads(at: u32, bytes: &[u8]) -> Vec<u8> {
    let head = [FILLED, (at >> 1) as u8, (at >> 9) as u8, bytes.len() as u8, 0, bytes.len() as u8];
    [&head[..], bytes].concat()
}

/// A part that the device reads, of two numbers.
pub fn reads_numbers(at: u32, first: i8, second: i8) -> Vec<u8> {
    vec![NUMBERS, (at >> 1) as u8, (at >> 9) as u8, 16, 0, first as u8, second as u8]
}

/// A part that the device writes.
pub fn writes(at: u32, length: u32) -> Vec<u8> {
    let head = [WRITE as u8 | ANY_LENGTH, (at >> 1) as u8, (at >> 9) as u8];
    [&head[..], &length.to_le_bytes()].concat()
}

/// The same part this many times, in a table of its own.
pub fn many(count: u16, mut part: Vec<u8>) -> Vec<u8> {
    part[0] |= INDIRECT as u8;
    [part, count.to_le_bytes().to_vec()].concat()
}

/// A chain of these parts for a queue.
pub fn request(queue: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    [vec![2, queue | (parts.len() as u8 - 1) << 4], parts.concat()].concat()
}

/// Something on the host's side.
pub fn host(what: &[u8]) -> Vec<u8> {
    [&[6], what].concat()
}

/// A save, and a load into another device.
pub fn save_and_load() -> Vec<u8> {
    vec![7]
}

/// All of it, by a driver that has started its device.
pub fn started(steps: &[Vec<u8>]) -> Vec<u8> {
    [vec![0], steps.concat()].concat()
}
