//! Units: amounts that cannot be mixed up. Arithmetic saturates, since a fold must never panic.
//!
//! Prices and plans are in `projections/billing`; here is only what events record.

use serde::{Deserialize, Serialize};

macro_rules! units {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// None of it.
            pub const ZERO: Self = Self(0);

            /// The sum, or the largest value when it does not fit.
            pub const fn plus(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference, or zero when `other` is larger.
            pub const fn minus(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }
    )*};
}

units! {
    /// A moment: milliseconds since 1970-01-01T00:00:00Z without leap seconds, as POSIX counts.
    Timestamp(u64);
    /// A length of time in milliseconds.
    Millis(u64);
    /// A length of time in whole seconds, as clients write time-outs.
    Seconds(u32);
    /// Memory in MiB (2^20 bytes).
    Mebibytes(u32);
    /// Memory held over time: MiB times seconds.
    MebibyteSeconds(u64);
    /// A count of bytes.
    Bytes(u64);
    /// Virtual processors of one guest.
    Vcpus(u8);
    /// Time of a standard shape (up to 4 vCPU and 2 GiB): shape weight times milliseconds. Plans limit this.
    StandardMillis(u64);
    /// Money: micro-cents (10^-6 cent), so that a second of the cheapest plan has a whole price. 2^64 of them are 184 billion dollars.
    MicroCents(u64);
}

impl StandardMillis {
    /// The same, rounded up to a whole second.
    pub const fn whole_seconds(self) -> Self {
        Self(self.0.div_ceil(1000).saturating_mul(1000))
    }
}

impl MicroCents {
    /// `count` times this amount, or the largest amount when it does not fit.
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

/// A day in UTC: whole days since 1970-01-01, as POSIX counts. It prints as a number; calendars are in `projections/billing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(pub u32);

impl Day {
    /// Milliseconds in a day; POSIX time has no leap seconds: one lasts into the second after it.
    const LENGTH: u64 = 24 * 3600 * 1000;

    /// The day that a moment lies in.
    pub const fn of(at: Timestamp) -> Self {
        let day = at.0 / Self::LENGTH;
        Self(if day > u32::MAX as u64 { u32::MAX } else { day as u32 })
    }

    /// Its first moment.
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0 as u64 * Self::LENGTH)
    }
}

impl Timestamp {
    /// The moment `length` after this one.
    pub const fn after(self, length: Millis) -> Self {
        Self(self.0.saturating_add(length.0))
    }

    /// The time from `earlier` to this moment; zero when `earlier` is later, as after a clock step backwards.
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

/// Where a service takes the time from: the system's clock, or a test's.
pub type Clock = std::sync::Arc<dyn Fn() -> Timestamp + Send + Sync>;

impl From<Seconds> for Millis {
    fn from(seconds: Seconds) -> Self {
        Self(u64::from(seconds.0).saturating_mul(1000))
    }
}

impl Millis {
    /// The same length as the standard library's type.
    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

/// Vcpus and memory of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// Guest memory.
    pub memory: Mebibytes,
}

impl Shape {
    /// Vcpus that one standard shape may have.
    const STANDARD_VCPUS: u64 = 4;
    /// MiB that one standard shape may have.
    const STANDARD_MEMORY: u64 = 2048;

    /// A paused guest holds its memory and nothing else: a quarter of what it would count for that memory while it ran, as
    /// `infra/plans.toml` tells customers.
    const PAUSED_PARTS: u64 = 4;

    /// MiB of memory for which a paused millisecond of this shape counts as much as a running one.
    pub(crate) fn paused_memory(self) -> u64 {
        let by_cpu = (Self::STANDARD_MEMORY * u64::from(self.vcpus.0)).div_ceil(Self::STANDARD_VCPUS);
        let weight = Self::STANDARD_MEMORY.max(by_cpu).max(self.memory.0.into());
        Self::PAUSED_PARTS * weight
    }

    /// The running time that counts as much as being paused for `length`. Rounded up to the millisecond.
    pub fn paused(self, length: Millis) -> Millis {
        let counted = u128::from(length.0) * u128::from(self.memory.0);
        let counted = counted.div_ceil(u128::from(self.paused_memory()));
        Millis(u64::try_from(counted).unwrap_or(u64::MAX))
    }

    /// What of the plan a sandbox of this shape has used once `length` of running time counts for it: its weight, rounded up to a whole
    /// second. Admission and bills round here and nowhere else.
    ///
    /// What it used between two moments is the difference of two of these, so that parts of it always add up to the whole.
    pub fn charge(self, length: Millis) -> StandardMillis {
        self.weigh(length).whole_seconds()
    }

    /// How much of the plan `length` of this shape uses: shapes up to 4 vCPU and 2 GiB count once, larger ones
    /// in proportion to whichever of the two is larger. Rounded up to the millisecond.
    pub fn weigh(self, length: Millis) -> StandardMillis {
        let by_cpu = length.0.saturating_mul(u64::from(self.vcpus.0)).div_ceil(Self::STANDARD_VCPUS);
        let by_memory = length.0.saturating_mul(u64::from(self.memory.0)).div_ceil(Self::STANDARD_MEMORY);
        StandardMillis(length.0.max(by_cpu).max(by_memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(vcpus: u8, memory: u32, expected: u64) {
        let shape = Shape { vcpus: Vcpus(vcpus), memory: Mebibytes(memory) };
        assert_eq!(shape.weigh(Millis(1000)), StandardMillis(expected));
    }

    #[test]
    fn shapes_up_to_the_standard_count_once_and_larger_ones_in_proportion() {
        check(1, 128, 1000);
        check(4, 2048, 1000);
        check(8, 2048, 2000);
        check(4, 3072, 1500);
        check(8, 8192, 4000);
    }

    #[test]
    fn a_pause_counts_for_its_memory_and_never_for_more_than_a_quarter_of_running() {
        for (vcpus, memory, counted) in
            [(1, 512, 63), (4, 2048, 250), (1, 4096, 250), (8, 2048, 125), (8, 8192, 250), (0, 0, 0)]
        {
            let shape = Shape { vcpus: Vcpus(vcpus), memory: Mebibytes(memory) };
            assert_eq!(shape.paused(Millis(1000)), Millis(counted), "{vcpus} {memory}");
        }
    }

    #[test]
    fn a_started_second_is_a_second_and_a_double_shape_counts_twice() {
        let shape = |memory| Shape { vcpus: Vcpus(1), memory: Mebibytes(memory) };
        for (memory, ran, expected) in [(512, 0, 0), (512, 1, 1000), (512, 1001, 2000), (4096, 1001, 3000)] {
            assert_eq!(shape(memory).charge(Millis(ran)), StandardMillis(expected), "{memory} {ran}");
        }
    }
}
