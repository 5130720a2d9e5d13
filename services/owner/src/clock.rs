//! The host's clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use omnirun_vmm_api::{Millis, UnixMillis};

/// A moment, to measure from.
#[derive(Debug, Clone, Copy)]
pub struct Started(Instant);

impl Started {
    /// This moment.
    pub fn now() -> Self {
        Self(Instant::now())
    }

    /// Time since.
    pub fn elapsed(self) -> Millis {
        self.0.elapsed().into()
    }
}

/// The wall clock.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
