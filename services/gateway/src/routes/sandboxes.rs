//! Sandboxes: asked for, shown, extended, paused and ended. What goes on inside one is in `commands`, `code`, `files` and `upload`.

pub(crate) mod create;
pub(crate) mod list;
mod metadata;
pub(crate) mod pause;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use omnirun_commands_api::Outcome;
use omnirun_commands_api::command::Command;
use omnirun_events::envelope::Actor;
use omnirun_events::id::SandboxId;
use omnirun_events::unit::{Seconds, Timestamp};
use omnirun_projections::sandboxes::Sandbox;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ask::unexpected;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Accepted, Body, Id};
use crate::gateway::App;
use metadata::Metadata;

/// A sandbox as its owner sees it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ShownSandbox {
    #[serde(rename = "sandboxID")]
    #[schema(value_type = String)]
    id: SandboxId,
    #[serde(rename = "templateID")]
    template: String,
    /// requested, starting, running, pausing, paused, stopping, stopped or failed.
    state: &'static str,
    /// When its guest became ready; before that, when it was asked for.
    #[serde(rename = "startedAt")]
    started_at: String,
    #[serde(rename = "endAt", skip_serializing_if = "Option::is_none")]
    end_at: Option<String>,
    /// The metadata's `name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    metadata: Metadata,
    #[serde(rename = "cpuCount")]
    cpu_count: u8,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
}

impl ShownSandbox {
    fn new(id: SandboxId, sandbox: &Sandbox, metadata: Metadata) -> Self {
        Self {
            id,
            template: sandbox.template.clone(),
            state: sandbox.state.as_str(),
            started_at: sandbox.started_at.unwrap_or(sandbox.requested_at).rfc3339(),
            end_at: sandbox.ended_at.or(sandbox.end_at).map(Timestamp::rfc3339),
            name: metadata.0.get("name").cloned(),
            metadata,
            cpu_count: sandbox.shape.vcpus.0,
            memory_mb: sandbox.shape.memory.0,
        }
    }
}

/// One sandbox.
#[utoipa::path(get, path = "/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path)), responses((status = 200, body = ShownSandbox)))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
) -> Result<Json<ShownSandbox>, ApiError> {
    app.own_sandbox(caller.account, id).await?;
    let found = app.directory.view(|directory, _| directory.sandboxes.get(id).cloned());
    let sandbox = found.ok_or_else(ApiError::not_found)?;
    let metadata = metadata::open(&app, &caller, std::slice::from_ref(&sandbox)).await?;
    Ok(Json(ShownSandbox::new(id, &sandbox, metadata.into_iter().next().unwrap_or_default())))
}

/// Destroys a sandbox with all that is in it. Twice is as good as once.
#[utoipa::path(delete, path = "/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path)), responses((status = 204)))]
pub(crate) async fn stop(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Id(sandbox): Id<SandboxId>,
) -> Result<StatusCode, ApiError> {
    let command = Command::StopSandbox { account: caller.account, sandbox };
    match ask_about(&app, &caller, &headers, sandbox, command).await? {
        Outcome::SandboxStopping => Ok(StatusCode::NO_CONTENT),
        _ => Err(unexpected()),
    }
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct NewTimeout {
    /// Seconds from now; 0 = the plan's longest.
    timeout: u32,
}

impl Accepted for NewTimeout {}

/// Moves a sandbox's end.
#[utoipa::path(post, path = "/sandboxes/{id}/timeout", tag = "sandboxes", params(("id" = String, Path)), request_body = NewTimeout, responses((status = 204)))]
pub(crate) async fn set_timeout(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Id(sandbox): Id<SandboxId>,
    Body(body): Body<NewTimeout>,
) -> Result<StatusCode, ApiError> {
    let command = Command::ExtendTimeout { account: caller.account, sandbox, timeout: Seconds(body.timeout) };
    match ask_about(&app, &caller, &headers, sandbox, command).await? {
        Outcome::TimeoutExtended { .. } => Ok(StatusCode::NO_CONTENT),
        _ => Err(unexpected()),
    }
}

/// Asks for something to be done with a sandbox of the caller's. Of somebody else's it is said that there is none.
async fn ask_about(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    sandbox: SandboxId,
    command: Command,
) -> Result<Outcome, ApiError> {
    app.own_sandbox(caller.account, sandbox).await?;
    let wish = app.wish(caller.account.as_bytes(), headers)?;
    app.ask(wish, Actor::Account(caller.account), command).await
}
