//! Closed months: what they cost and why, as recorded.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use omnirun_billing::Closed;
use omnirun_billing::calendar::label;
use omnirun_events::billing::Correction;
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Month, Query};
use crate::gateway::App;
use crate::routes::billing::{Amount, FROM, Format, ShownLine, TO, csv_answer, in_order, moment, seconds};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatementsQuery {
    /// A day or a moment in UTC: months that end after it. Default: all.
    from: Option<String>,
    /// A day or a moment in UTC: months that begin before it. Default: all.
    to: Option<String>,
    /// json (default) or csv.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    format: Format,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatementQuery {
    /// json (default) or csv.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    format: Format,
}

/// A closed month. It is never computed again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownStatement {
    /// Such as `2026-11`: the month in which it begins.
    month: String,
    start: String,
    /// The first moment of the next one.
    end: String,
    closed_at: String,
    plan: String,
    /// The version of the price book: the day since when that price holds.
    price_from: String,
    /// The plan's price of the month.
    base: Amount,
    /// Seconds of a standard shape that the plan includes.
    included_seconds: u64,
    /// For each second above that; absent where the plan sells none.
    #[serde(skip_serializing_if = "Option::is_none")]
    overage_per_second: Option<Amount>,
    standard_seconds: u64,
    overage_seconds: u64,
    /// What the month cost when it was closed.
    amount: Amount,
    corrections: Vec<ShownCorrection>,
    /// What is owed for it: the amount and its corrections.
    due: Amount,
    /// By day and shape; only where one month was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<Vec<ShownLine>>,
}

/// A change to what a closed month costs.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShownCorrection {
    at: String,
    /// credit: less is owed; charge: more.
    kind: &'static str,
    amount: Amount,
}

impl From<&Closed> for ShownStatement {
    fn from(closed: &Closed) -> Self {
        let statement = &closed.statement;
        let corrections = closed.corrections.iter().map(|(at, correction, amount)| ShownCorrection {
            at: at.rfc3339(),
            kind: match correction {
                Correction::Credit => "credit",
                Correction::Charge => "charge",
            },
            amount: (*amount).into(),
        });
        Self {
            month: label(statement.start),
            start: statement.start.rfc3339(),
            end: statement.end.rfc3339(),
            closed_at: closed.at.rfc3339(),
            plan: statement.plan.clone(),
            price_from: statement.price_from.day(),
            base: statement.base.into(),
            included_seconds: seconds(statement.included),
            overage_per_second: statement.overage_per_second.map(Amount::from),
            standard_seconds: seconds(statement.standard),
            overage_seconds: seconds(statement.overage),
            amount: statement.amount.into(),
            corrections: corrections.collect(),
            due: closed.due().into(),
            lines: None,
        }
    }
}

/// The account's closed months, newest first. A month is closed 48 hours after its end; one that used and cost nothing has no statement.
#[utoipa::path(get, path = "/account/statements", tag = "account", params(StatementsQuery), responses((status = 200, body = Vec<ShownStatement>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<StatementsQuery>,
) -> Result<Response, ApiError> {
    let from = moment(query.from.as_deref(), Timestamp(0), FROM)?;
    let to = moment(query.to.as_deref(), Timestamp(u64::MAX), TO)?;
    in_order(from, to)?;
    let is_wanted = |closed: &&Closed| closed.statement.end > from && closed.statement.start < to;
    Ok(app.billing.view(|billing, _| {
        let closed = billing.of(caller.account).map(|ledger| ledger.statements()).unwrap_or_default();
        let newest_first = closed.iter().rev().filter(is_wanted);
        match query.format {
            Format::Csv => csv_answer(summary(newest_first)),
            Format::Json => Json(newest_first.map(ShownStatement::from).collect::<Vec<_>>()).into_response(),
        }
    }))
}

/// One closed month with its lines.
#[utoipa::path(get, path = "/account/statements/{month}", tag = "account", params(("month" = String, Path, description = "Such as 2026-11"), StatementQuery), responses((status = 200, body = ShownStatement)))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Month(month): Month,
    Query(query): Query<StatementQuery>,
) -> Result<Response, ApiError> {
    let closed = app.billing.view(|billing, _| {
        let mut closed = billing.of(caller.account)?.statements().iter();
        closed.find(|closed| label(closed.statement.start) == month).cloned()
    });
    let closed = closed.ok_or_else(ApiError::not_found)?;
    let lines: Vec<ShownLine> = closed.statement.lines.iter().map(ShownLine::from).collect();
    if query.format == Format::Csv {
        let rows = lines.iter().map(ShownLine::row).collect::<String>();
        return Ok(csv_answer(format!("{}{rows}", ShownLine::HEAD)));
    }
    Ok(Json(ShownStatement { lines: Some(lines), ..ShownStatement::from(&closed) }).into_response())
}

/// One row for each month, newest first. Nothing in it can hold a comma: names of plans have none.
fn summary<'a>(newest_first: impl Iterator<Item = &'a Closed>) -> String {
    let mut text = String::from(
        "month,start,end,plan,priceFrom,standardSeconds,overageSeconds,amountMicroCents,dueMicroCents\r\n",
    );
    for closed in newest_first {
        let statement = &closed.statement;
        let row = [
            label(statement.start),
            statement.start.rfc3339(),
            statement.end.rfc3339(),
            statement.plan.clone(),
            statement.price_from.day(),
            seconds(statement.standard).to_string(),
            seconds(statement.overage).to_string(),
            statement.amount.0.to_string(),
            closed.due().0.to_string(),
        ];
        text += &row.join(",");
        text += "\r\n";
    }
    text
}
