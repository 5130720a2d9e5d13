//! What the throw-away guest executes, in long mode: instructions that every stock kernel uses and that KVM's emulator
//! lacks (Linux' arch/x86/kvm/emulate.c), each with a result that shows that it was executed and not skipped.

/// An instruction: its name, and its bytes (Intel's manual, volume 2).
type Instruction = (&'static str, &'static [u8]);

/// `rdi` points to [`data`].
const INSTRUCTIONS: [Instruction; 6] = [
    ("MOVDQA (SSE)", &[0x66, 0x0f, 0x6f, 0x07]), // movdqa xmm0, [rdi]
    ("PXOR (SSE)", &[0x66, 0x0f, 0xef, 0x47, 0x10]), // pxor   xmm0, [rdi + 16]
    ("MOVDQA (SSE)", &[0x66, 0x0f, 0x7f, 0x47, 0x20]), // movdqa [rdi + 32], xmm0
    ("XRSTOR", &[0x0f, 0xae, 0x6f, 0x40]),       // xrstor [rdi + 64], of the components in edx:eax
    ("CMPXCHG16B", &[0x48, 0x0f, 0xc7, 0x4f, 0x30]), // cmpxchg16b [rdi + 48]: rdx:rax there becomes rcx:rbx
    ("HLT", &[0xf4]),
];

/// Offsets in the data.
const SUM: usize = 32;
const EXCHANGED: usize = 48;
const STATE: usize = 64;
/// A state to restore: 512 bytes and a header of 64, all zeros, which is every component as after a reset.
const STATE_BYTES: usize = 576;

const LEFT: [u8; 16] = *b"OmniRun's guest.";
const RIGHT: [u8; 16] = [0x5a; 16];
/// `rax` and `rdx`: both what is compared and the components that are restored, x87 and SSE.
pub const OLD: [u64; 2] = [3, 0];
/// `rbx` and `rcx`.
pub const NEW: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

/// The instructions' bytes.
pub fn code() -> Vec<u8> {
    INSTRUCTIONS.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect()
}

/// What they work on.
pub fn data() -> Vec<u8> {
    let mut data = vec![0; STATE + STATE_BYTES];
    data[..16].copy_from_slice(&LEFT);
    data[16..32].copy_from_slice(&RIGHT);
    data[EXCHANGED..STATE].copy_from_slice(&bytes(OLD));
    data
}

/// The data once all has been executed.
pub fn result() -> Vec<u8> {
    let mut data = data();
    for at in 0..16 {
        data[SUM + at] = LEFT[at] ^ RIGHT[at];
    }
    data[EXCHANGED..STATE].copy_from_slice(&bytes(NEW));
    data
}

fn bytes([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

/// The name of the instruction at this offset of the code.
pub fn name_at(offset: u64) -> &'static str {
    let mut end = 0;
    let found = INSTRUCTIONS.iter().find(|(_, bytes)| {
        end += bytes.len() as u64;
        offset < end
    });
    found.map_or("the code", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_names_the_instruction_that_begins_there() {
        let mut offset = 0;
        for (name, bytes) in INSTRUCTIONS {
            assert_eq!((name_at(offset), name_at(offset + bytes.len() as u64 - 1)), (name, name));
            offset += bytes.len() as u64;
        }
        assert_eq!((offset as usize, name_at(offset)), (code().len(), "the code"));
    }

    #[test]
    fn every_instruction_leaves_a_trace_and_operands_are_aligned_as_the_processor_demands() {
        let (before, after) = (data(), result());
        assert_ne!(before[SUM..EXCHANGED], after[SUM..EXCHANGED]);
        assert_ne!(before[EXCHANGED..STATE], after[EXCHANGED..STATE]);
        assert_eq!((SUM % 16, EXCHANGED % 16, STATE % 64), (0, 0, 0));
    }
}
