//! Commands in a sandbox: started, listed, fed, followed and killed. The guest's agent keeps them; nothing of them is stored here.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use omnirun_agent_api::{Private, Seconds, StartCommand, Stdin, route};
use omnirun_events::id::SandboxId;
use omnirun_events::unit;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::code::{Outcome, TIMEOUT_DEFAULT};
use super::sandboxes::create::envs_are_good;
use crate::auth::Caller;
use crate::data_path::GuestRequest;
use crate::data_path::relay::{Shape, relay};
use crate::error::ApiError;
use crate::extract::{Accepted, Body, BodyKind, Id, Pid};
use crate::gateway::App;

#[derive(Deserialize, ToSchema)]
pub(crate) struct NewCommand {
    /// The command line, for a shell.
    #[schema(value_type = String)]
    command: Private,
    /// Seconds; default 60 in the foreground and none in the background, 0 = no limit.
    timeout: Option<u32>,
    #[schema(value_type = Option<String>)]
    cwd: Option<Private>,
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    envs: BTreeMap<String, Private>,
    user: Option<String>,
    /// Answer with the pid at once.
    #[serde(default)]
    background: bool,
}

impl Accepted for NewCommand {
    const KIND: BodyKind = BodyKind::Code;
}

/// The answer to a command in the background.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "it describes what the guest answers; the answer itself passes through unread")]
pub(crate) struct Started {
    pid: u32,
}

/// A command that the guest runs or ran within the last hour.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "it describes what the guest answers; the answer itself passes through unread")]
pub(crate) struct ShownCommand {
    pid: u32,
    command: String,
    running: bool,
    exit_code: Option<i32>,
    stdout: Option<String>,
    stderr: Option<String>,
    started_at: String,
    ended_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it describes what the guest answers; the answer itself passes through unread")]
pub(crate) enum CommandAnswer {
    Foreground(Outcome),
    Background(Started),
}

/// Runs a command: in the foreground to its end, in the background until it has started.
#[utoipa::path(post, path = "/sandboxes/{id}/commands", tag = "commands", params(("id" = String, Path)), request_body = NewCommand, responses((status = 200, body = CommandAnswer)))]
pub(crate) async fn start(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Id(id): Id<SandboxId>,
    Body(body): Body<NewCommand>,
) -> Result<Response, ApiError> {
    if body.command.expose().contains('\0') {
        return Err(ApiError::invalid("command must not have a NUL in it."));
    }
    envs_are_good(&body.envs)?;
    user_is_good(body.user.as_deref())?;
    let target = app.target(&caller, id).await?;
    let patience = match (body.background, body.timeout.unwrap_or(TIMEOUT_DEFAULT)) {
        (true, _) => Some(unit::Seconds(0)),
        (false, 0) => None,
        (false, seconds) => Some(unit::Seconds(seconds)),
    };
    let message = StartCommand {
        command: body.command,
        timeout: body.timeout.map(Seconds),
        cwd: body.cwd,
        envs: body.envs,
        user: body.user,
        background: body.background,
    };
    let mut request = GuestRequest::new(Method::POST, route::COMMANDS).with_json(&message);
    request.patience = patience;
    forward_key(&headers, &mut request);
    relay(&app, &target, caller.token, request, Shape::Json).await
}

/// The commands that the guest runs or ran.
#[utoipa::path(get, path = "/sandboxes/{id}/commands", tag = "commands", params(("id" = String, Path)), responses((status = 200, body = Vec<ShownCommand>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
) -> Result<Response, ApiError> {
    let target = app.target(&caller, id).await?;
    let request = GuestRequest::new(Method::GET, route::COMMANDS);
    relay(&app, &target, caller.token, request, Shape::Json).await
}

/// One command with the output kept of it.
#[utoipa::path(get, path = "/sandboxes/{id}/commands/{pid}", tag = "commands", params(("id" = String, Path), ("pid" = u32, Path)), responses((status = 200, body = ShownCommand)))]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Pid(pid): Pid,
) -> Result<Response, ApiError> {
    let target = app.target(&caller, id).await?;
    let request = GuestRequest::new(Method::GET, format!("{}/{pid}", route::COMMANDS));
    relay(&app, &target, caller.token, request, Shape::Json).await
}

/// Kills a command and all that it started.
#[utoipa::path(delete, path = "/sandboxes/{id}/commands/{pid}", tag = "commands", params(("id" = String, Path), ("pid" = u32, Path)), responses((status = 204)))]
pub(crate) async fn kill(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Pid(pid): Pid,
) -> Result<Response, ApiError> {
    let target = app.target(&caller, id).await?;
    let request = GuestRequest::new(Method::DELETE, format!("{}/{pid}", route::COMMANDS));
    relay(&app, &target, caller.token, request, Shape::Empty).await
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct NewInput {
    /// Text, as it is: no line end is added.
    #[serde(default)]
    #[schema(value_type = String)]
    data: Private,
    /// Close the standard input after it.
    #[serde(default)]
    eof: bool,
}

impl Accepted for NewInput {
    const KIND: BodyKind = BodyKind::Code;
}

/// Writes to a command's standard input.
#[utoipa::path(post, path = "/sandboxes/{id}/commands/{pid}/stdin", tag = "commands", params(("id" = String, Path), ("pid" = u32, Path)), request_body = NewInput, responses((status = 204)))]
pub(crate) async fn write_stdin(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Pid(pid): Pid,
    Body(body): Body<NewInput>,
) -> Result<Response, ApiError> {
    let target = app.target(&caller, id).await?;
    let message = Stdin { data: body.data, eof: body.eof };
    let path = format!("{}/{pid}/stdin", route::COMMANDS);
    let request = GuestRequest::new(Method::POST, path).with_json(&message);
    relay(&app, &target, caller.token, request, Shape::Empty).await
}

/// Follows a command's output as server-sent events, what was printed before first.
#[utoipa::path(get, path = "/sandboxes/{id}/commands/{pid}/stream", tag = "commands", params(("id" = String, Path), ("pid" = u32, Path)), responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(crate) async fn stream(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Pid(pid): Pid,
) -> Result<Response, ApiError> {
    let target = app.target(&caller, id).await?;
    let mut request = GuestRequest::new(Method::GET, format!("{}/{pid}/stream", route::COMMANDS));
    request.headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    relay(&app, &target, caller.token, request, Shape::Events).await
}

/// Passes the idempotency key on: what runs in a guest is remembered there.
pub(super) fn forward_key(headers: &HeaderMap, request: &mut GuestRequest) {
    if let Some(key) = headers.get(crate::ask::IDEMPOTENCY_KEY) {
        request.headers.insert(route::IDEMPOTENCY_KEY, key.clone());
    }
}

/// Whether this can be a user of the guest, in Debian's own pattern for names.
pub(super) fn user_is_good(user: Option<&str>) -> Result<(), ApiError> {
    let good = |name: &str| {
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let goes_on = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        starts && name.len() <= 32 && name.bytes().all(goes_on)
    };
    if user.is_none_or(good) {
        Ok(())
    } else {
        Err(ApiError::invalid("user has to be the name of a user of the guest."))
    }
}
