//! Every route in one place, and the OpenAPI document that is generated with them.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use omnirun_events::token::Scope;
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{self, Access};
use crate::auth::guard;
use crate::error::ApiError;
use crate::gateway::{App, Gateway};
use crate::observe::observe;
use crate::routes::{
    account, close, code, commands, export, files, sandboxes, service, sessions, sign_in, statements, tokens,
    upload, usage,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "OmniRun", description = "Isolated microVM sandboxes for AI agents."),
    components(schemas(crate::error::ErrorBody))
)]
struct Document;

impl Gateway {
    /// The API as a service.
    pub fn router(&self) -> Router {
        let (router, _) = all().split_for_parts();
        router
            .method_not_allowed_fallback(method_not_allowed)
            .fallback(async || ApiError::not_found())
            .layer(from_fn_with_state(self.app.clone(), guard))
            .layer(from_fn(crate::head::limit))
            .layer(from_fn(observe))
            .with_state(self.app.clone())
    }
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This route does not take that method.",
    )
}

fn all() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(sign_in::request_code))
        .routes(routes!(sign_in::verify_code))
        .routes(routes!(sessions::log_out))
        .routes(routes!(sessions::list, sessions::end_all))
        .routes(routes!(sessions::end))
        .routes(routes!(tokens::report_leaked))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(account::get, account::change, close::close))
        .routes(routes!(export::export))
        .routes(routes!(usage::usage))
        .routes(routes!(statements::list))
        .routes(routes!(statements::get))
        .routes(routes!(sandboxes::create::create, sandboxes::list::list))
        .routes(routes!(sandboxes::get, sandboxes::stop))
        .routes(routes!(sandboxes::set_timeout))
        .routes(routes!(sandboxes::pause::pause))
        .routes(routes!(sandboxes::pause::resume))
        .routes(routes!(code::run))
        .routes(routes!(commands::start, commands::list))
        .routes(routes!(commands::get, commands::kill))
        .routes(routes!(commands::write_stdin))
        .routes(routes!(commands::stream))
        .routes(routes!(files::read, files::write, files::remove))
        .routes(routes!(files::write_batch))
        .routes(routes!(upload::upload))
        .routes(routes!(files::download))
        .routes(routes!(files::list))
        .routes(routes!(files::exists))
        .routes(routes!(files::info))
        .routes(routes!(files::rename))
        .routes(routes!(files::mkdir))
        .routes(routes!(service::health))
        .routes(routes!(service::status))
        .routes(routes!(service::metrics))
        .routes(routes!(service::openapi))
        .routes(routes!(service::mailbox))
}

/// The OpenAPI 3.1 document as JSON: what the handlers say of themselves, and from the table in [`access`] what each asks of its caller.
pub fn document() -> String {
    let openapi = all().into_openapi();
    let mut document = serde_json::to_value(openapi).expect("the document has string keys");
    document["components"]["securitySchemes"] = json!({
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": crate::auth::cookie::NAME},
    });
    for (method, template, access) in access::TABLE {
        let operation = &mut document["paths"][*template][method.to_ascii_lowercase()];
        if !operation.is_object() {
            continue;
        }
        let error = json!({"description": "Refused.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}});
        operation["responses"]["default"] = error;
        operation["security"] = security(*access);
        if let Access::Scope(scope) = access {
            operation["x-scope"] = scope_name(*scope);
        }
    }
    document.to_string()
}

fn security(access: Access) -> Value {
    match access {
        Access::Public => json!([]),
        Access::SignedIn | Access::Scope(_) => json!([{"key": []}, {"bearer": []}, {"session": []}]),
    }
}

pub(crate) fn scope_name(scope: Scope) -> Value {
    serde_json::to_value(scope).expect("a scope is a text")
}
