//! Where random bytes come from: the system, or a test's seed.

use std::sync::Arc;

/// Fills a buffer with random bytes.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// The system's random source.
pub fn system() -> Random {
    Arc::new(|buffer| {
        getrandom::fill(buffer).expect("the kernel's random source works once the machine is up")
    })
}

/// `N` bytes of it: an id, a key, a nonce.
pub fn bytes<const N: usize>(random: &Random) -> [u8; N] {
    let mut buffer = [0; N];
    random(&mut buffer);
    buffer
}
