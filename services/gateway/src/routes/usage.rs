//! What an account used, as metered, and what that costs.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirun_billing::Period;
use omnirun_billing::due::{MonthToDate, month_to_date};
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::unit::Timestamp;
use omnirun_events::usage::Meter;
use omnirun_projections::usage::SandboxUsage;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::Query;
use crate::gateway::App;
use crate::routes::billing::{FROM, Format, ShownMonth, TO, csv_answer, in_order, moment};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageQuery {
    /// A day or a moment in UTC; default: the beginning of the account's month that `to` lies in.
    from: Option<String>,
    /// A day or a moment in UTC, itself not included; default: now.
    to: Option<String>,
    /// json (default) or csv.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    format: Format,
}

/// Usage as of now: readings are made every 60 s and at a sandbox's end.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShownUsage {
    from: String,
    to: String,
    /// Every sandbox that ran at some time between the two, with all that it used.
    sandboxes: Vec<UsageLine>,
    totals: Totals,
    /// The account's current month; only where neither `from` nor `to` was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    month: Option<ShownMonth>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct UsageLine {
    #[serde(rename = "sandboxID")]
    #[schema(value_type = String)]
    id: SandboxId,
    #[serde(rename = "templateID")]
    template: String,
    #[serde(rename = "cpuCount")]
    cpu_count: Option<u8>,
    #[serde(rename = "memoryMB")]
    memory_mb: Option<u32>,
    #[serde(rename = "startedAt")]
    started_at: Option<String>,
    #[serde(rename = "endedAt")]
    ended_at: Option<String>,
    #[serde(flatten)]
    used: Totals,
}

#[derive(Serialize, ToSchema, Default, Clone, Copy)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    /// Milliseconds that it ran.
    wall_ms: u64,
    /// Milliseconds of processor time.
    vcpu_ms: u64,
    /// MiB times seconds.
    memory_mib_seconds: u64,
    /// Bytes from the network.
    received_bytes: u64,
    /// Bytes to the network.
    sent_bytes: u64,
}

impl Totals {
    fn of(meter: &Meter) -> Self {
        Self {
            wall_ms: meter.wall.0,
            vcpu_ms: meter.vcpu.0,
            memory_mib_seconds: meter.memory.0,
            received_bytes: meter.received.0,
            sent_bytes: meter.sent.0,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            wall_ms: self.wall_ms.saturating_add(other.wall_ms),
            vcpu_ms: self.vcpu_ms.saturating_add(other.vcpu_ms),
            memory_mib_seconds: self.memory_mib_seconds.saturating_add(other.memory_mib_seconds),
            received_bytes: self.received_bytes.saturating_add(other.received_bytes),
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
        }
    }
}

/// What the account used.
#[utoipa::path(get, path = "/account/usage", tag = "account", params(UsageQuery), responses((status = 200, body = ShownUsage)))]
pub(crate) async fn usage(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<UsageQuery>,
) -> Result<Response, ApiError> {
    let now = app.now();
    let to = moment(query.to.as_deref(), now, TO)?;
    let from = moment(query.from.as_deref(), begin(&app, caller.account, to), FROM)?;
    in_order(from, to)?;
    let used: Vec<(SandboxId, SandboxUsage)> = app.usage.view(|usage, _| {
        let ran = usage.of(caller.account).filter(|(_, one)| ran_between(one, from, to));
        ran.map(|(id, one)| (id, one.clone())).collect()
    });
    let is_current = query.from.is_none() && query.to.is_none();
    let month = month(&app, caller.account, now).filter(|_| is_current).map(ShownMonth::from);
    let sandboxes: Vec<UsageLine> = used.iter().map(|(id, one)| line(*id, one)).collect();
    let totals = sandboxes.iter().fold(Totals::default(), |sum, line| sum.plus(line.used));
    if query.format == Format::Csv {
        return Ok(csv(&sandboxes));
    }
    let shown = ShownUsage { from: from.rfc3339(), to: to.rfc3339(), sandboxes, totals, month };
    Ok(Json(shown).into_response())
}

/// The beginning of the account's month that `to` lies in, or ends.
fn begin(app: &App, account: AccountId, to: Timestamp) -> Timestamp {
    let before = Timestamp(to.0.saturating_sub(1));
    let opened = app.directory.view(|directory, _| directory.accounts.get(account).map(|one| one.opened_at));
    opened.map_or(Timestamp(0), |opened| Period::of(opened, before).start)
}

/// The account's month so far; none until its ledger is there, and where its plan is not in the plans file.
fn month(app: &App, account: AccountId, now: Timestamp) -> Option<MonthToDate> {
    app.billing.view(|billing, _| {
        let ledger = billing.of(account)?;
        month_to_date(ledger, &app.plans, now).ok()
    })
}

fn ran_between(usage: &SandboxUsage, from: Timestamp, to: Timestamp) -> bool {
    let Some(started) = usage.started_at else { return false };
    started < to && usage.stopped_at.is_none_or(|stopped| stopped > from)
}

fn line(id: SandboxId, usage: &SandboxUsage) -> UsageLine {
    UsageLine {
        id,
        template: usage.template.clone(),
        cpu_count: usage.shape.map(|shape| shape.vcpus.0),
        memory_mb: usage.shape.map(|shape| shape.memory.0),
        started_at: usage.started_at.map(Timestamp::rfc3339),
        ended_at: usage.stopped_at.map(Timestamp::rfc3339),
        used: Totals::of(&usage.meter),
    }
}

/// RFC 4180. Nothing in it can hold a comma: ids, template names of the operator's own, numbers and times.
fn csv(lines: &[UsageLine]) -> Response {
    let mut text = String::from(
        "sandboxID,templateID,cpuCount,memoryMB,startedAt,endedAt,wallMs,vcpuMs,memoryMibSeconds,receivedBytes,sentBytes\r\n",
    );
    let optional = |value: Option<String>| value.unwrap_or_default();
    for line in lines {
        let used = line.used;
        let row = [
            line.id.to_string(),
            line.template.clone(),
            optional(line.cpu_count.map(|count| count.to_string())),
            optional(line.memory_mb.map(|size| size.to_string())),
            optional(line.started_at.clone()),
            optional(line.ended_at.clone()),
            used.wall_ms.to_string(),
            used.vcpu_ms.to_string(),
            used.memory_mib_seconds.to_string(),
            used.received_bytes.to_string(),
            used.sent_bytes.to_string(),
        ];
        text.push_str(&row.join(","));
        text.push_str("\r\n");
    }
    csv_answer(text)
}
