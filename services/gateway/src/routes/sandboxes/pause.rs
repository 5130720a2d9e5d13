//! Pausing and resuming a sandbox. Both are of a sandbox's life, so they ask for the scope that creates and ends one.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use omnirun_commands_api::Outcome;
use omnirun_commands_api::command::Command;
use omnirun_events::id::SandboxId;
use omnirun_projections::sandboxes::State as Life;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ask::unexpected;
use crate::auth::Caller;
use crate::data_path::sandbox_ended;
use crate::error::ApiError;
use crate::extract::Id;
use crate::gateway::App;
use crate::routes::sandboxes::ask_about;

/// How long an answer may wait for the host to have paused the guest: two appends and a word to the owner process. A host that takes longer
/// still does it.
const PAUSE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What the sandbox is now.
#[derive(Serialize, ToSchema)]
pub(crate) struct Switched {
    /// paused, running, or pausing: the host has been asked and has not answered yet.
    status: &'static str,
}

/// Has a sandbox stand still: its memory stays, its end does not move, and it is charged for its memory alone. Twice is as good as once.
#[utoipa::path(post, path = "/sandboxes/{id}/pause", tag = "sandboxes", params(("id" = String, Path)), responses((status = 200, body = Switched)))]
pub(crate) async fn pause(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Id(sandbox): Id<SandboxId>,
) -> Result<Json<Switched>, ApiError> {
    let command = Command::PauseSandbox { account: caller.account, sandbox };
    let Outcome::SandboxPausing = ask_about(&app, &caller, &headers, sandbox, command).await? else {
        return Err(unexpected());
    };
    let settled = app.directory.until(PAUSE_WAIT_MAX, |directory| {
        let state = directory.sandboxes.get(sandbox).map(|found| found.state);
        (state != Some(Life::Pausing)).then_some(state)
    });
    match settled.await {
        // A repeated request may find that the sandbox was resumed since.
        Ok(Some(state @ (Life::Paused | Life::Running))) => Ok(Json(Switched { status: state.as_str() })),
        Ok(_) => Err(sandbox_ended()),
        Err(_) => Ok(Json(Switched { status: Life::Pausing.as_str() })),
    }
}

/// Lets a paused sandbox go on; the time until its end is reserved anew, so that a plan's limit may stand in the way. Twice is as good as once.
#[utoipa::path(post, path = "/sandboxes/{id}/resume", tag = "sandboxes", params(("id" = String, Path)), responses((status = 200, body = Switched)))]
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Id(sandbox): Id<SandboxId>,
) -> Result<Json<Switched>, ApiError> {
    let command = Command::ResumeSandbox { account: caller.account, sandbox };
    match ask_about(&app, &caller, &headers, sandbox, command).await? {
        Outcome::SandboxResumed => Ok(Json(Switched { status: Life::Running.as_str() })),
        _ => Err(unexpected()),
    }
}
