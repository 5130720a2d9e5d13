//! Money: whole micro-cents, so that a second of the cheapest plan has a whole price. There are no floats in billing.

use serde::{Deserialize, Serialize};

/// Micro-cents in one cent.
pub const PER_CENT: u64 = 1_000_000;

/// An amount in micro-cents (10^-6 cent). Arithmetic saturates: 2^64 micro-cents are 184 billion dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MicroCents(pub u64);

impl MicroCents {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, or the largest amount when it does not fit.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `count` times this amount, or the largest amount when it does not fit.
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}
