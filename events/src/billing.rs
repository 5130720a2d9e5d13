//! Events of an account's bills, on `evt.<account>.billing.self`. Accounting records: they stay for as long as the account does.

use serde::{Deserialize, Serialize};

use crate::id::SandboxId;
use crate::log::Sequence;
use crate::subject::Log;
use crate::unit::{Day, MicroCents, Millis, Shape, StandardMillis, Timestamp};

/// A month was rated for good. It is never computed again: what turns out wrong is a [`StatementCorrected`].
///
/// Everything that the amount follows from is in it, and everything that the next month starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementClosed {
    /// The month's first moment. No two statements of an account overlap.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
    /// Name of the plan.
    pub plan: String,
    /// Version of the price book: the day since when that price holds.
    pub price_from: Timestamp,
    /// The plan's price of the month.
    pub base: MicroCents,
    /// What of a month the plan includes.
    pub included: StandardMillis,
    /// For each second above that; none where the plan sells none.
    pub overage_per_second: Option<MicroCents>,
    /// What was used, by day and shape, in order.
    pub lines: Vec<StatementLine>,
    /// The sum of the lines.
    pub standard: StandardMillis,
    /// What of it was above what the plan includes.
    pub overage: StandardMillis,
    /// What the month costs.
    pub amount: MicroCents,
    /// The sandboxes that ran on into the next month, by id, with what is billed of them so far.
    pub carried: Vec<Carried>,
    /// How far the logs were read when it was computed, in order of logs; what is in none was not read. Whoever folds the account's records
    /// up to there gets the same statement. Empty in version 1, of which only the signature can be checked.
    #[serde(default)]
    pub seen: Vec<SeenThrough>,
}

/// A log was read up to this position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenThrough(pub Log, pub Sequence);

/// What sandboxes of one shape used on one day (UTC), in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementLine {
    /// The day.
    pub day: Day,
    /// The shape; none for the sum of a day's rarer shapes.
    pub shape: Option<Shape>,
    /// How many of them used something on this day.
    pub sandboxes: u32,
    /// What they used.
    pub standard: StandardMillis,
}

/// A sandbox that ran on when its month ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Which.
    pub sandbox: SandboxId,
    /// Its running time that is billed: this statement and those before it.
    pub wall: Millis,
}

/// Which way a correction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// The account owes less.
    Credit,
    /// The account owes more.
    Charge,
}

/// A closed month costs more or less than its statement says. The statement stands as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementCorrected {
    /// First moment of the statement's month.
    pub start: Timestamp,
    /// More or less.
    pub correction: Correction,
    /// By how much.
    pub amount: MicroCents,
}

/// The account was told by mail how much of what its month includes is used. Each percentage once a month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageNoticed {
    /// First moment of the month.
    pub start: Timestamp,
    /// The percentage that was reached: 50, 80 or 100.
    pub percent: u8,
    /// What was used when it was.
    pub used: StandardMillis,
    /// What the month includes.
    pub included: StandardMillis,
}
