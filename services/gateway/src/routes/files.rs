//! Files in a sandbox. Uploads are in `upload`.

use axum::extract::State;
use axum::http::Method;
use axum::response::Response;
use omnirun_agent_api::{Place, Private, Rename, WriteFile, route};
use omnirun_events::id::SandboxId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::commands::user_is_good;
use crate::auth::Caller;
use crate::data_path::GuestRequest;
use crate::data_path::relay::{Shape, relay};
use crate::error::ApiError;
use crate::extract::{Accepted, Body, BodyKind, Id, Query};
use crate::gateway::App;

/// Bytes of a path, at most; Linux's own limit.
const PATH_MAX: usize = 4096;
/// Files of one batch, at most.
const BATCH_MAX: usize = 1000;
/// Levels that a list goes down, at most.
const DEPTH_MAX: u32 = 32;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct At {
    /// Absolute, or relative to the user's home.
    #[param(value_type = String)]
    path: Private,
    user: Option<String>,
    /// Levels to list, 1 to 32; default 1.
    depth: Option<u32>,
}

impl At {
    /// The agent's path with this place as its query.
    pub(super) fn on(&self, route: &str) -> Result<String, ApiError> {
        path_is_good(&self.path)?;
        user_is_good(self.user.as_deref())?;
        let mut path = format!("{route}?path={}", percent_encode(self.path.expose()));
        if let Some(user) = &self.user {
            path.push_str(&format!("&user={}", percent_encode(user)));
        }
        match self.depth {
            None => {}
            Some(depth @ 1..=DEPTH_MAX) => path.push_str(&format!("&depth={depth}")),
            Some(_) => return Err(ApiError::invalid("depth has to be 1 to 32.")),
        }
        Ok(path)
    }

    pub(super) fn new(path: Private, user: Option<String>) -> Self {
        Self { path, user, depth: None }
    }
}

/// Every byte but RFC 3986's unreserved ones as `%XX`.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Refuses what no path may be. The agent checks again; here it costs the guest nothing.
fn path_is_good(path: &Private) -> Result<(), ApiError> {
    let path = path.expose();
    let goes_up = path.split('/').any(|part| part == "..");
    if path.is_empty() || path.len() > PATH_MAX || path.contains('\0') || goes_up {
        let mut error =
            ApiError::invalid("path has to be 1 to 4096 bytes without NUL and without a .. component.");
        error.code = "bad_path".into();
        return Err(error);
    }
    Ok(())
}

/// A file's text.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "it describes what the guest answers; the answer itself passes through unread")]
pub(crate) struct Content {
    content: String,
}

/// A file or directory.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "it describes what the guest answers; the answer itself passes through unread")]
pub(crate) struct Entry {
    name: String,
    path: String,
    is_dir: bool,
    size: u64,
}

#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "it describes what the guest answers; the answer itself passes through unread")]
pub(crate) struct Exists {
    exists: bool,
}

/// What is asked about one place.
async fn ask_at(
    app: &App,
    caller: &Caller,
    id: SandboxId,
    (method, at, route, shape): (Method, At, &'static str, Shape),
) -> Result<Response, ApiError> {
    let path = at.on(route)?;
    let target = app.target(caller, id).await?;
    relay(app, &target, caller.token, GuestRequest::new(method, path), shape).await
}

/// What is sent as one message.
async fn send<T: Serialize>(
    app: &App,
    caller: &Caller,
    id: SandboxId,
    (route, message): (&'static str, T),
) -> Result<Response, ApiError> {
    let target = app.target(caller, id).await?;
    let request = GuestRequest::new(Method::POST, route).with_json(&message);
    relay(app, &target, caller.token, request, Shape::Json).await
}

/// A file's text.
#[utoipa::path(get, path = "/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), At), responses((status = 200, body = Content)))]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    ask_at(&app, &caller, id, (Method::GET, at, route::FILES, Shape::Json)).await
}

/// Removes a file, or a directory with all that is in it.
#[utoipa::path(delete, path = "/sandboxes/{id}/files", tag = "files", params(("id" = String, Path), At), responses((status = 204)))]
pub(crate) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    ask_at(&app, &caller, id, (Method::DELETE, at, route::FILES, Shape::Empty)).await
}

/// A file's bytes.
#[utoipa::path(get, path = "/sandboxes/{id}/files/download", tag = "files", params(("id" = String, Path), At), responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>)))]
pub(crate) async fn download(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    ask_at(&app, &caller, id, (Method::GET, at, route::FILES_DOWNLOAD, Shape::Bytes)).await
}

/// What is in a directory.
#[utoipa::path(get, path = "/sandboxes/{id}/files/list", tag = "files", params(("id" = String, Path), At), responses((status = 200, body = Vec<Entry>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    ask_at(&app, &caller, id, (Method::GET, at, route::FILES_LIST, Shape::Json)).await
}

/// Whether something is there.
#[utoipa::path(get, path = "/sandboxes/{id}/files/exists", tag = "files", params(("id" = String, Path), At), responses((status = 200, body = Exists)))]
pub(crate) async fn exists(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    ask_at(&app, &caller, id, (Method::GET, at, route::FILES_EXISTS, Shape::Json)).await
}

/// A file or directory.
#[utoipa::path(get, path = "/sandboxes/{id}/files/info", tag = "files", params(("id" = String, Path), At), responses((status = 200, body = Entry)))]
pub(crate) async fn info(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Query(at): Query<At>,
) -> Result<Response, ApiError> {
    ask_at(&app, &caller, id, (Method::GET, at, route::FILES_INFO, Shape::Json)).await
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct NewFile {
    #[schema(value_type = String)]
    path: Private,
    #[schema(value_type = String)]
    content: Private,
    user: Option<String>,
}

impl Accepted for NewFile {
    const KIND: BodyKind = BodyKind::File;
}

impl NewFile {
    fn check(self) -> Result<WriteFile, ApiError> {
        path_is_good(&self.path)?;
        user_is_good(self.user.as_deref())?;
        Ok(WriteFile { path: self.path, content: self.content, user: self.user })
    }
}

/// Makes or replaces a file.
#[utoipa::path(post, path = "/sandboxes/{id}/files", tag = "files", params(("id" = String, Path)), request_body = NewFile, responses((status = 200, body = Entry)))]
pub(crate) async fn write(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Body(body): Body<NewFile>,
) -> Result<Response, ApiError> {
    send(&app, &caller, id, (route::FILES, body.check()?)).await
}

#[derive(Deserialize, ToSchema)]
#[serde(transparent)]
pub(crate) struct NewFiles(Vec<NewFile>);

impl Accepted for NewFiles {
    const KIND: BodyKind = BodyKind::File;
}

/// Makes or replaces several files.
#[utoipa::path(post, path = "/sandboxes/{id}/files/batch", tag = "files", params(("id" = String, Path)), request_body = Vec<NewFile>, responses((status = 200, body = Vec<Entry>)))]
pub(crate) async fn write_batch(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Body(body): Body<NewFiles>,
) -> Result<Response, ApiError> {
    if body.0.is_empty() || body.0.len() > BATCH_MAX {
        return Err(ApiError::invalid("a batch has 1 to 1000 files."));
    }
    let files = body.0.into_iter().map(NewFile::check).collect::<Result<Vec<_>, _>>()?;
    send(&app, &caller, id, (route::FILES_BATCH, files)).await
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewName {
    #[schema(value_type = String)]
    old_path: Private,
    #[schema(value_type = String)]
    new_path: Private,
    user: Option<String>,
}

impl Accepted for NewName {}

/// Renames a file or directory.
#[utoipa::path(post, path = "/sandboxes/{id}/files/rename", tag = "files", params(("id" = String, Path)), request_body = NewName, responses((status = 200, body = Entry)))]
pub(crate) async fn rename(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Body(body): Body<NewName>,
) -> Result<Response, ApiError> {
    path_is_good(&body.old_path)?;
    path_is_good(&body.new_path)?;
    user_is_good(body.user.as_deref())?;
    let message = Rename { old_path: body.old_path, new_path: body.new_path, user: body.user };
    send(&app, &caller, id, (route::FILES_RENAME, message)).await
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct NewDirectory {
    #[schema(value_type = String)]
    path: Private,
    user: Option<String>,
}

impl Accepted for NewDirectory {}

/// Makes a directory and its parents.
#[utoipa::path(post, path = "/sandboxes/{id}/files/mkdir", tag = "files", params(("id" = String, Path)), request_body = NewDirectory, responses((status = 200, body = Entry)))]
pub(crate) async fn mkdir(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    Body(body): Body<NewDirectory>,
) -> Result<Response, ApiError> {
    path_is_good(&body.path)?;
    user_is_good(body.user.as_deref())?;
    send(&app, &caller, id, (route::FILES_MKDIR, Place { path: body.path, user: body.user })).await
}
