//! The bytes of a state file: what they are, which version, how long, a checksum, and the state as MessagePack.
//!
//! The checksum finds damage, not malice: whoever may write the template store may write a guest's kernel too.

use serde::{Serialize, de::DeserializeOwned};

use crate::PLANTED_BUG;

/// The version that is written and the only one that is read. It changes whenever the state does.
pub const VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"OMNIRUNS";
/// Magic, version, length of the state, CRC-32 of everything else.
const HEADER_BYTES: usize = 8 + 4 + 4 + 4;

/// Why bytes are no state.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// They are something else.
    #[error("it is no snapshot")]
    NotOne,
    /// Another program wrote them.
    #[error("it is of version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// Some are missing, or there are more than there should be.
    #[error("it is {found} bytes long instead of {expected}")]
    Length {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// They are not those that were written.
    #[error("it is damaged: its checksum does not fit")]
    Damaged,
    /// The checksum fits, and still they mean nothing.
    #[error("it makes no sense")]
    Nonsense(#[source] rmp_serde::decode::Error),
    /// The state cannot be written.
    #[error("the state cannot be encoded")]
    Encode(#[source] rmp_serde::encode::Error),
}

/// The bytes of a state.
pub fn encode<T: Serialize>(state: &T) -> Result<Vec<u8>, Broken> {
    let body = rmp_serde::to_vec_named(state).map_err(Broken::Encode)?;
    let too_long = |_| Broken::Length { found: body.len(), expected: u32::MAX as usize };
    let length = u32::try_from(body.len()).map_err(too_long)?;
    let head = [&MAGIC[..], &VERSION.to_le_bytes(), &length.to_le_bytes()].concat();
    let sum = checksum(&head, &body);
    Ok([head, sum.to_le_bytes().to_vec(), body].concat())
}

/// The state of bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Broken> {
    if !bytes.starts_with(MAGIC) {
        return Err(Broken::NotOne);
    }
    let Some((head, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(Broken::Length { found: bytes.len(), expected: HEADER_BYTES });
    };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if word(8) != VERSION {
        return Err(Broken::Version(word(8)));
    }
    if PLANTED_BUG {
        // Planted: a length that is believed.
        let _ = &body[..word(12) as usize];
    }
    if body.len() != word(12) as usize {
        let expected = HEADER_BYTES.saturating_add(word(12) as usize);
        return Err(Broken::Length { found: bytes.len(), expected });
    }
    if checksum(&head[..16], body) != word(16) {
        return Err(Broken::Damaged);
    }
    rmp_serde::from_slice(body).map_err(Broken::Nonsense)
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(head);
    sum.update(body);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{kvm_regs, kvm_xsave};
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Sample {
        regs: kvm_regs,
        xsave: Vec<kvm_xsave>,
        words: Vec<u32>,
    }

    fn sample() -> Sample {
        let regs = kvm_regs { rip: 0x1234_5678_9abc, ..Default::default() };
        Sample { regs, xsave: vec![kvm_xsave::default(), kvm_xsave::default()], words: vec![1, 2, 3] }
    }

    fn bytes() -> Vec<u8> {
        encode(&sample()).expect("it is plain data")
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let back: Sample = decode(&bytes()).expect("it was written");
        assert_eq!((back.regs, back.words, back.xsave.len()), (sample().regs, sample().words, 2));
    }

    #[test]
    fn the_head_is_what_it_will_always_be() {
        assert_eq!(bytes()[..12], *b"OMNIRUNS\x02\0\0\0");
    }

    #[test]
    fn every_cut_is_found() {
        let whole = bytes();
        for length in 0..whole.len() {
            assert!(decode::<Sample>(&whole[..length]).is_err(), "{length}");
        }
        assert!(decode::<Sample>(&[whole, vec![0]].concat()).is_err());
    }

    #[test]
    fn another_version_is_named_before_anything_else_is_believed() {
        let mut other = bytes();
        other[8] = 1;
        let said = decode::<Sample>(&other).expect_err("it is refused").to_string();
        assert_eq!(said, "it is of version 1, and this program reads version 2");
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_found(at in 0..9000_usize, bit in 0..8_u32) {
            let mut flipped = bytes();
            let at = at % flipped.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode::<Sample>(&flipped).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let head = [&MAGIC[..], &VERSION.to_le_bytes(), &(body.len() as u32).to_le_bytes()].concat();
            let sum = checksum(&head, &body);
            let _ = decode::<Sample>(&[&head[..], &sum.to_le_bytes(), &body].concat());
        }
    }
}
