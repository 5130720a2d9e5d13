//! Bills as users read them: amounts, lines, a month that is under way. What things cost is decided in `projections/billing`.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use omnirun_billing::Bill;
use omnirun_billing::due::MonthToDate;
use omnirun_events::billing::StatementLine;
use omnirun_events::unit::{MicroCents, StandardMillis, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;

/// How an answer is written.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Json,
    Csv,
}

/// What is said of a `from` that is none.
pub(crate) const FROM: &str = "from has to be a day or an RFC 3339 time in UTC.";

/// The same of a `to`.
pub(crate) const TO: &str = "to has to be a day or an RFC 3339 time in UTC.";

/// The moment that was asked for, or `default` where none was.
pub(crate) fn moment(
    text: Option<&str>,
    default: Timestamp,
    message: &'static str,
) -> Result<Timestamp, ApiError> {
    text.map_or(Ok(default), |text| Timestamp::parse_rfc3339(text).ok_or(ApiError::invalid(message)))
}

/// Refuses a range that ends before it begins.
pub(crate) fn in_order(from: Timestamp, to: Timestamp) -> Result<(), ApiError> {
    if from > to { Err(ApiError::invalid("from has to be before to.")) } else { Ok(()) }
}

/// An amount of money.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Amount {
    /// Millionths of a cent, exactly.
    micro_cents: u64,
    /// The same in cents, rounded down.
    cents: u64,
}

impl From<MicroCents> for Amount {
    fn from(money: MicroCents) -> Self {
        Self { micro_cents: money.0, cents: money.0 / 1_000_000 }
    }
}

/// What sandboxes of one shape used on one day.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShownLine {
    /// The day in UTC.
    day: String,
    /// Absent for the sum of a day's rarer shapes.
    #[serde(rename = "cpuCount", skip_serializing_if = "Option::is_none")]
    cpu_count: Option<u8>,
    #[serde(rename = "memoryMB", skip_serializing_if = "Option::is_none")]
    memory_mb: Option<u32>,
    /// How many of them used something on this day.
    sandboxes: u32,
    /// Seconds of a standard shape.
    #[serde(rename = "standardSeconds")]
    standard_seconds: u64,
}

impl From<&StatementLine> for ShownLine {
    fn from(line: &StatementLine) -> Self {
        Self {
            day: line.day.start().day(),
            cpu_count: line.shape.map(|shape| shape.vcpus.0),
            memory_mb: line.shape.map(|shape| shape.memory.0),
            sandboxes: line.sandboxes,
            standard_seconds: seconds(line.standard),
        }
    }
}

impl ShownLine {
    /// The columns of [`Self::row`].
    pub const HEAD: &str = "day,cpuCount,memoryMB,sandboxes,standardSeconds\r\n";

    /// The line in CSV. Nothing in it can hold a comma.
    pub fn row(&self) -> String {
        let shape = |value: Option<String>| value.unwrap_or_default();
        let (cpu, memory) = (self.cpu_count.map(|n| n.to_string()), self.memory_mb.map(|n| n.to_string()));
        let Self { day, sandboxes, standard_seconds, .. } = self;
        format!("{day},{},{},{sandboxes},{standard_seconds}\r\n", shape(cpu), shape(memory))
    }
}

/// What some use comes to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownBill {
    /// Seconds of a standard shape (up to 4 vCPU and 2 GiB); larger shapes count in proportion.
    standard_seconds: u64,
    /// The part of them above what the plan includes.
    overage_seconds: u64,
    /// The plan's price of the month.
    base: Amount,
    /// Base and overage together.
    amount: Amount,
}

impl From<Bill> for ShownBill {
    fn from(bill: Bill) -> Self {
        Self {
            standard_seconds: seconds(bill.standard),
            overage_seconds: seconds(bill.overage),
            base: bill.base.into(),
            amount: bill.amount.into(),
        }
    }
}

/// The account's current month.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownMonth {
    /// Such as `2026-11`: the month in which it begins.
    month: String,
    start: String,
    /// The first moment of the next one, when what is included begins anew.
    end: String,
    so_far: ShownBill,
    /// What the month will come to at the pace so far.
    forecast: ShownBill,
    lines: Vec<ShownLine>,
}

impl From<MonthToDate> for ShownMonth {
    fn from(month: MonthToDate) -> Self {
        Self {
            month: month.period.label(),
            start: month.period.start.rfc3339(),
            end: month.period.end.rfc3339(),
            so_far: month.bill.into(),
            forecast: month.forecast.into(),
            lines: month.lines.iter().map(ShownLine::from).collect(),
        }
    }
}

/// Whole seconds of a standard shape: statements and lines have no parts of one.
pub(crate) fn seconds(standard: StandardMillis) -> u64 {
    standard.0 / 1000
}

/// CSV as RFC 4180 has it.
pub(crate) fn csv_answer(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"))], text).into_response()
}
