//! The list of an account's sandboxes: newest first, in pages.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use omnirun_commands_api::command::FIELDS_MAX;
use omnirun_events::id::SandboxId;
use omnirun_projections::sandboxes::Sandbox;
use serde::Deserialize;
use utoipa::IntoParams;

use super::metadata::{self, Wanted};
use super::{Metadata, ShownSandbox};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::Query;
use crate::gateway::{App, Shared};

/// Sandboxes of a page when the client does not say.
const LIMIT_DEFAULT: usize = 100;
/// Sandboxes of a page, at most.
const LIMIT_MAX: usize = 1000;
/// Batches that one filtered page looks through, at most; then it ends early, with a token to go on.
const BATCHES_MAX: usize = 8;

const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// 1 to 1000; default 100.
    limit: Option<usize>,
    /// `x-next-token` of the page before.
    next_token: Option<String>,
    /// States, with commas between them. Default: every sandbox that has not ended.
    state: Option<String>,
    /// `k:v[,k:v]`: every pair has to be in the sandbox's metadata.
    metadata: Option<String>,
}

/// The account's sandboxes, newest first. The header `x-next-token` is there when there is more.
#[utoipa::path(get, path = "/sandboxes", tag = "sandboxes", params(ListQuery), responses((status = 200, body = Vec<ShownSandbox>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit has to be 1 to 1000."));
    }
    let states = query.state.as_deref().map(states).transpose()?;
    let wanted = query.metadata.as_deref().map(Wanted::parse).transpose()?.unwrap_or_default();
    let mut after = query.next_token.map(|text| cursor(&app, &caller, &text)).transpose()?;
    let mut shown = Vec::new();
    let mut next = None;
    for _ in 0..BATCHES_MAX {
        // Without a filter on metadata, one more than the page holds tells whether there is more.
        let size = if wanted.is_empty() { limit + 1 } else { FIELDS_MAX };
        let batch = batch(&app, &caller, after, states.as_deref(), size.min(FIELDS_MAX));
        let is_last = batch.len() < size.min(FIELDS_MAX);
        let sandboxes: Vec<Sandbox> = batch.iter().map(|(_, sandbox)| sandbox.clone()).collect();
        let opened = metadata::open(&app, &caller, &sandboxes).await?;
        next = add(&mut shown, &batch, opened, &wanted, limit);
        if next.is_some() || is_last {
            break;
        }
        after = batch.last().map(|(id, _)| *id);
        next = after;
    }
    let mut response = Json(shown).into_response();
    if let Some(next) = next {
        let value = HeaderValue::from_str(&next.to_string()).map_err(|_| ApiError::internal())?;
        response.headers_mut().insert(NEXT_TOKEN, value);
    }
    Ok(response)
}

/// Adds what matches until the page is full; then answers with the sandbox to go on after.
fn add(
    shown: &mut Vec<ShownSandbox>,
    batch: &[(SandboxId, Sandbox)],
    opened: Vec<Metadata>,
    wanted: &Wanted,
    limit: usize,
) -> Option<SandboxId> {
    let mut last = None;
    for ((id, sandbox), metadata) in batch.iter().zip(opened) {
        if shown.len() == limit {
            return last;
        }
        if wanted.matches(&metadata) {
            shown.push(ShownSandbox::new(*id, sandbox, metadata));
        }
        last = Some(*id);
    }
    None
}

fn batch(
    app: &Shared,
    caller: &Caller,
    after: Option<SandboxId>,
    states: Option<&[String]>,
    size: usize,
) -> Vec<(SandboxId, Sandbox)> {
    app.directory.view(|directory, _| {
        let newest_first = directory.sandboxes.of(caller.account).rev();
        let mut passed = after.is_none();
        let rest = newest_first.filter(|(id, _)| {
            let is_after = passed;
            passed |= after == Some(*id);
            is_after
        });
        let wanted = rest.filter(|(_, sandbox)| match states {
            None => !sandbox.state.is_final(),
            Some(states) => states.iter().any(|state| state == sandbox.state.as_str()),
        });
        wanted.take(size).map(|(id, sandbox)| (id, sandbox.clone())).collect()
    })
}

/// The states of the API.
const STATES: [&str; 8] =
    ["requested", "starting", "running", "pausing", "paused", "stopping", "stopped", "failed"];

fn states(text: &str) -> Result<Vec<String>, ApiError> {
    let known = |state: &str| STATES.contains(&state).then(|| state.to_owned());
    let states: Option<Vec<String>> = text.split(',').map(known).collect();
    states.ok_or(ApiError::invalid(
        "state has to be requested, starting, running, pausing, paused, stopping, stopped or failed, with commas between them.",
    ))
}

fn cursor(app: &Shared, caller: &Caller, text: &str) -> Result<SandboxId, ApiError> {
    let id = text.parse().ok();
    let own = id.filter(|id| {
        app.directory.view(|directory, _| {
            directory.sandboxes.get(*id).is_some_and(|sandbox| sandbox.account == caller.account)
        })
    });
    own.ok_or(ApiError::invalid("next_token has to be the x-next-token of an earlier answer."))
}
