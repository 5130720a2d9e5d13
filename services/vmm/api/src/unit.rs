//! Amounts as types, so that they cannot be swapped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
    };
}

unit! {
    /// Memory of a guest in MiB.
    MemoryMib(u32)
}
unit! {
    /// Virtual processors of a guest.
    Vcpus(u8)
}
unit! {
    /// A length of time in milliseconds.
    Millis(u64)
}
unit! {
    /// A point in time: milliseconds since 1970-01-01T00:00:00Z.
    UnixMillis(u64)
}
unit! {
    /// An amount of memory held for a time: MiB times seconds, rounded down.
    MibSeconds(u64)
}
unit! {
    /// An amount of data.
    Bytes(u64)
}

impl MemoryMib {
    /// The same amount in bytes.
    pub fn bytes(self) -> Bytes {
        Bytes(u64::from(self.0) << 20)
    }

    /// This much memory held for a time.
    pub fn held_for(self, time: Millis) -> MibSeconds {
        MibSeconds(u64::from(self.0).saturating_mul(time.0) / 1000)
    }
}

impl Millis {
    /// The same length as the standard library's type.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}
