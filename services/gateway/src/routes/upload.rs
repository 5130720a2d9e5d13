//! Uploading a file: multipart from the client, a plain stream to the guest, and no more in memory than is on its way.

use axum::body::HttpBody as _;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use omnirun_agent_api::{Private, route};
use omnirun_events::id::SandboxId;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::files::{At, Entry};
use crate::auth::Caller;
use crate::data_path::relay::{Shape, relay};
use crate::data_path::{Cut, GuestBody, GuestRequest};
use crate::error::ApiError;
use crate::extract::{Id, too_large, too_slow};
use crate::gateway::{App, duration};

/// Bytes of the fields before the file, at most.
const FIELD_MAX: usize = 8192;

/// The form. `path` comes before `file`, which is passed on while it comes in.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it describes a form that is read as a stream")]
pub(crate) struct UploadForm {
    path: String,
    user: Option<String>,
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    file: String,
}

/// Makes or replaces a file with the bytes of a form's `file`.
#[utoipa::path(post, path = "/sandboxes/{id}/files/upload", tag = "files", params(("id" = String, Path)),
    request_body(content = UploadForm, content_type = "multipart/form-data"), responses((status = 200, body = Entry)))]
pub(crate) async fn upload(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<SandboxId>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let limit = usize::try_from(app.config.limits.upload.0).unwrap_or(usize::MAX);
    if request.body().size_hint().lower() > app.config.limits.upload.0 {
        return Err(too_large());
    }
    DefaultBodyLimit::max(limit).apply(&mut request);
    let form = Multipart::from_request(request, &app).await;
    let mut form = form.map_err(|_| {
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "The body has to be multipart/form-data.",
        )
    })?;
    let (mut path, mut user) = (None, None);
    loop {
        let next = tokio::time::timeout(duration(app.config.times.body), form.next_field()).await;
        let field = next.map_err(|_| too_slow())?.map_err(|error| broken(&error))?;
        let Some(field) = field else { return Err(ApiError::invalid("the form has no file.")) };
        match field.name() {
            Some("path") => path = Some(text(&app, field).await?),
            Some("user") => user = Some(text(&app, field).await?),
            Some("file") => {
                let path = path.ok_or(ApiError::invalid("path has to come before file in the form."))?;
                let at = At::new(Private::from(path), user).on(route::FILES_UPLOAD)?;
                let target = app.target(&caller, id).await?;
                let (pieces, body) = passage();
                let mut request = GuestRequest::new(Method::PUT, at);
                (request.body, request.patience) = (body, None);
                let answer = relay(&app, &target, caller.token, request, Shape::Json);
                return pass(&app, field, pieces, answer).await;
            }
            _ => drop(text(&app, field).await?),
        }
    }
}

/// A piece of the file, or its end.
type Pieces = mpsc::Sender<Option<Bytes>>;

/// A body for the guest and the end to put its pieces in at. One piece waits; the next is read when it has gone. Only an announced end is
/// one: when the sender is just dropped, with the client or after an error, the guest's request is reset, so that half a file is never
/// taken for a whole one.
fn passage() -> (Pieces, GuestBody) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(Some(receiver), async |state: Option<mpsc::Receiver<Option<Bytes>>>| {
        let mut receiver = state?;
        match receiver.recv().await {
            Some(Some(piece)) => Some((Ok(Frame::data(piece)), Some(receiver))),
            Some(None) => None,
            None => Some((Err(Cut), None)),
        }
    });
    (sender, BodyExt::boxed_unsync(StreamBody::new(pieces)))
}

/// Passes the file on while the guest works on its answer, which may come early when it refuses.
async fn pass(
    app: &App,
    field: Field<'_>,
    pieces: Pieces,
    answer: impl Future<Output = Result<Response, ApiError>>,
) -> Result<Response, ApiError> {
    tokio::pin!(answer);
    let fed = tokio::select! {
        answer = &mut answer => return answer,
        fed = feed(app, field, pieces) => fed,
    };
    fed?;
    let within = duration(app.config.times.guest);
    let timeout =
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "guest_timeout", "The sandbox did not answer in time.");
    tokio::time::timeout(within, answer).await.unwrap_or(Err(timeout))
}

async fn feed(app: &App, mut field: Field<'_>, pieces: Pieces) -> Result<(), ApiError> {
    let within = duration(app.config.times.body);
    loop {
        let piece = tokio::time::timeout(within, field.chunk()).await.map_err(|_| too_slow())?;
        let piece = piece.map_err(|error| broken(&error))?;
        let is_end = piece.is_none();
        // When the guest has stopped reading, its answer says why.
        if pieces.send(piece).await.is_err() || is_end {
            return Ok(());
        }
    }
}

async fn text(app: &App, mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    loop {
        let next = tokio::time::timeout(duration(app.config.times.body), field.chunk()).await;
        let Some(piece) = next.map_err(|_| too_slow())?.map_err(|error| broken(&error))? else { break };
        bytes.extend_from_slice(&piece);
        if bytes.len() > FIELD_MAX {
            return Err(too_large());
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid("the form's fields have to be UTF-8."))
}

fn broken(error: &MultipartError) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        _ => ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_form",
            "The body is not the form that its type announces.",
        ),
    }
}
