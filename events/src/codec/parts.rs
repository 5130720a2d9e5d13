//! Taking a stored record apart without copying it.
//!
//! There is one way to write the three parts down that is ours: a map of three, `h`, `p`, `s` in this order, each as a byte string with the shortest
//! length that holds it. This reads that one and nothing else, so that what it takes needs no comparing with a second encoding.

use bytes::Bytes;

use super::DecodeError;
use crate::envelope::Parts;

/// MessagePack's map of three entries.
const MAP_OF_THREE: u8 = 0x83;
/// MessagePack's string of one byte.
const STRING_OF_ONE: u8 = 0xa1;

/// The parts, which share the memory of `record`; or what is wrong with it.
pub(super) fn split(record: &Bytes) -> Result<Parts, DecodeError> {
    own(record).ok_or_else(|| match rmp_serde::from_slice::<Parts>(record) {
        Ok(_) => DecodeError::NotCanonical,
        Err(source) => DecodeError::MessagePack { what: "the record", source },
    })
}

fn own(record: &Bytes) -> Option<Parts> {
    let mut at = 1;
    if record.first() != Some(&MAP_OF_THREE) {
        return None;
    }
    let mut next = |name| part(record, &mut at, name);
    let parts = Parts { header: next(b'h')?, payload: next(b'p')?, signature: next(b's')? };
    (at == record.len()).then_some(parts)
}

fn part(record: &Bytes, at: &mut usize, name: u8) -> Option<Bytes> {
    let rest = record.get(*at..)?.strip_prefix(&[STRING_OF_ONE, name])?;
    let (length, shortest, bytes) = match *rest {
        [0xc4, a, ..] => (u32::from(a), 0, 2),
        [0xc5, a, b, ..] => (u32::from(u16::from_be_bytes([a, b])), 1 << 8, 3),
        [0xc6, a, b, c, d, ..] => (u32::from_be_bytes([a, b, c, d]), 1 << 16, 5),
        _ => return None,
    };
    let start = *at + 2 + bytes;
    let end = start.checked_add(length as usize)?;
    if length < shortest || end > record.len() {
        return None;
    }
    *at = end;
    Some(record.slice(start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(payload: usize) -> Parts {
        let header = vec![1; 3].into();
        Parts { header, payload: vec![2; payload].into(), signature: vec![3; 64].into() }
    }

    #[test]
    fn what_the_encoder_writes_is_taken_apart_at_every_width_of_a_length() {
        for payload in [0, 1, 255, 256, 257, 65_535, 65_536, 100_000] {
            let record = Bytes::from(rmp_serde::to_vec_named(&parts(payload)).expect("bytes always encode"));
            assert_eq!(own(&record), Some(parts(payload)), "{payload}");
        }
    }

    #[test]
    fn another_way_to_write_the_same_parts_is_not_canonical() {
        let record = rmp_serde::to_vec_named(&parts(3)).expect("bytes always encode");
        let at = record.windows(2).position(|two| two == b"\xa1p").expect("there is a payload") + 2;
        for longer in [&b"\xc5\x00\x03"[..], b"\xc6\x00\x00\x00\x03"] {
            let other = [&record[..at], longer, &record[at + 2..]].concat().into();
            assert!(matches!(split(&other), Err(DecodeError::NotCanonical)), "{longer:?}");
        }
        let more = [&record[..], &[0xc0]].concat().into();
        assert!(split(&more).is_err());
    }

    #[test]
    fn a_record_cut_anywhere_is_refused() {
        let record = rmp_serde::to_vec_named(&parts(300)).expect("bytes always encode");
        for end in 0..record.len() {
            assert!(split(&Bytes::copy_from_slice(&record[..end])).is_err(), "{end}");
        }
    }
}
