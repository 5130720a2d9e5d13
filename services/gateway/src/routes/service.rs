//! What operators and tools ask of the service itself.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::client::Client;
use crate::config::Audience;
use crate::error::ApiError;
use crate::gateway::App;

/// `ok` once the read models follow the log.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, body = String)))]
pub(crate) async fn health(State(app): State<App>) -> Result<&'static str, ApiError> {
    app.is_following().map(|()| "ok")
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ShownStatus {
    node_id: String,
    active_sandboxes: usize,
    max_sandboxes: u64,
    templates: Vec<String>,
}

/// How much there is of everything.
#[utoipa::path(get, path = "/status", tag = "service", responses((status = 200, body = ShownStatus)))]
pub(crate) async fn status(State(app): State<App>) -> Json<ShownStatus> {
    Json(app.directory.view(|directory, _| {
        let hosts = || directory.hosts.present().map(|(_, host)| &host.offer);
        let mut templates: Vec<String> =
            hosts().flat_map(|offer| offer.templates.iter().map(|template| template.name.clone())).collect();
        templates.sort();
        templates.dedup();
        ShownStatus {
            node_id: app.config.node_id.clone(),
            active_sandboxes: directory.sandboxes.live().count(),
            max_sandboxes: hosts().map(|offer| u64::from(offer.sandboxes_max)).sum(),
            templates,
        }
    }))
}

/// The process's metrics in Prometheus' text format; by default for this machine only.
#[utoipa::path(get, path = "/metrics", tag = "service", responses((status = 200, content_type = "text/plain", body = String)))]
pub(crate) async fn metrics(State(app): State<App>, client: Client) -> Result<Response, ApiError> {
    let may = app.config.metrics == Audience::Everyone || client.is_local;
    let handle = app.metrics.as_ref().filter(|_| may).ok_or_else(ApiError::not_found)?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], handle.render()).into_response())
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, content_type = "application/json", body = Object)))]
pub(crate) async fn openapi(State(app): State<App>) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], app.openapi.clone()).into_response()
}

#[derive(Serialize, ToSchema)]
pub(crate) struct MailInMemory {
    to: String,
    subject: String,
    text: String,
    /// The code in the text.
    code: Option<String>,
    at: String,
}

/// The mails that were not sent, for trying things out: only where no mail server is set, and only for this machine.
#[utoipa::path(get, path = "/dev/mailbox", tag = "service", responses((status = 200, body = Vec<MailInMemory>)))]
pub(crate) async fn mailbox(
    State(app): State<App>,
    client: Client,
) -> Result<Json<Vec<MailInMemory>>, ApiError> {
    let mailbox = app.mailbox.as_ref().filter(|_| client.is_local).ok_or_else(ApiError::not_found)?;
    let shown = mailbox.mails().into_iter().map(|mail| MailInMemory {
        to: mail.to,
        subject: mail.subject,
        text: mail.text,
        code: mail.code,
        at: mail.at.rfc3339(),
    });
    Ok(Json(shown.collect()))
}
