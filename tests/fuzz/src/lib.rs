//! What the fuzz targets share. `scripts/fuzz` builds and runs them; docs/decisions/fuzzing.md says why they are as they are.
//!
//! Reading order: [`input`] (values out of the fuzzer's bytes), [`driver`] (a guest's driver that does what they say, for
//! the virtio devices), [`say`] (inputs for it), [`seeds`] (the corpus that a run starts with). The targets are in `targets/`.

pub mod input;

pub mod driver;

pub mod say;

pub mod seeds;

/// Ignores SIGPIPE, as every Rust program does from its start: a fuzzer's `main` is libFuzzer's.
pub fn ignore_sigpipe() {
    // signal(7): its number on every architecture of Linux that we run on; SIG_IGN is 1.
    const SIGPIPE: i32 = 13;
    const SIG_IGN: usize = 1;
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
    }
    // SAFETY: this is the C library's function, and ignoring a signal runs no code.
    unsafe { signal(SIGPIPE, SIG_IGN) };
}
