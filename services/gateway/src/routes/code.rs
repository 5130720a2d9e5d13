//! Running a piece of code in a sandbox.

use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use omnirun_agent_api::{Language, Private, RunCode, Seconds, route};
use omnirun_events::id::SandboxId;
use omnirun_events::unit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::commands::{forward_key, user_is_good};
use super::sandboxes::create::envs_are_good;
use crate::auth::Caller;
use crate::data_path::GuestRequest;
use crate::data_path::relay::{Shape, relay};
use crate::error::ApiError;
use crate::extract::{Accepted, Body, BodyKind, Id};
use crate::gateway::App;

/// Seconds that code may run when the client does not say.
pub(super) const TIMEOUT_DEFAULT: u32 = 60;

#[derive(Deserialize, ToSchema)]
pub(crate) struct NewRun {
    #[schema(value_type = String)]
    code: Private,
    /// python, bash or sh.
    #[schema(value_type = String)]
    language: Language,
    /// Seconds; default 60, 0 = no limit.
    timeout: Option<u32>,
    #[schema(value_type = Option<String>)]
    cwd: Option<Private>,
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    envs: BTreeMap<String, Private>,
    user: Option<String>,
    #[schema(value_type = Option<String>)]
    stdin: Option<Private>,
}

impl Accepted for NewRun {
    const KIND: BodyKind = BodyKind::Code;
}

/// What a command or a piece of code printed and how it ended.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "it describes what the guest answers; the answer itself passes through unread")]
pub(crate) struct Outcome {
    stdout: String,
    stderr: String,
    exit_code: i32,
}

/// Runs code in a process of its own and answers when it has ended.
#[utoipa::path(post, path = "/sandboxes/{id}/code", tag = "code", params(("id" = String, Path)), request_body = NewRun, responses((status = 200, body = Outcome)))]
pub(crate) async fn run(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Id(id): Id<SandboxId>,
    Body(body): Body<NewRun>,
) -> Result<Response, ApiError> {
    envs_are_good(&body.envs)?;
    user_is_good(body.user.as_deref())?;
    let target = app.target(&caller, id).await?;
    let seconds = body.timeout.unwrap_or(TIMEOUT_DEFAULT);
    let message = RunCode {
        code: body.code,
        language: body.language,
        timeout: Some(Seconds(seconds)),
        cwd: body.cwd,
        envs: body.envs,
        user: body.user,
        stdin: body.stdin,
    };
    let mut request = GuestRequest::new(Method::POST, route::CODE).with_json(&message);
    request.patience = (seconds > 0).then_some(unit::Seconds(seconds));
    forward_key(&headers, &mut request);
    relay(&app, &target, caller.token, request, Shape::Json).await
}
