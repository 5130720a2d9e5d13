//! Who may use which route: one table. A route without a row has no caller, so that its handler fails closed; a test compares the table
//! with the OpenAPI document in both directions.

use axum::http::Method;
use omnirun_events::token::Scope;

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// Any credential that is good.
    SignedIn,
    /// A credential with this scope.
    Scope(Scope),
}

const READ: Access = Access::Scope(Scope::SandboxRead);
const CREATE: Access = Access::Scope(Scope::SandboxCreate);
const EXEC: Access = Access::Scope(Scope::SandboxExec);
const ACCOUNT: Access = Access::Scope(Scope::Account);
const USAGE: Access = Access::Scope(Scope::UsageRead);

/// Method, route template, what it asks for.
pub const TABLE: &[(&str, &str, Access)] = &[
    ("POST", "/auth/magic-link/request", Access::Public),
    ("POST", "/auth/otp/verify", Access::Public),
    ("POST", "/auth/tokens/leaked", Access::Public),
    ("POST", "/auth/logout", Access::SignedIn),
    ("GET", "/auth/sessions", ACCOUNT),
    ("DELETE", "/auth/sessions", ACCOUNT),
    ("DELETE", "/auth/sessions/{id}", ACCOUNT),
    ("GET", "/tokens", ACCOUNT),
    ("POST", "/tokens", ACCOUNT),
    ("DELETE", "/tokens/{id}", ACCOUNT),
    ("GET", "/account", ACCOUNT),
    ("DELETE", "/account", ACCOUNT),
    ("PATCH", "/account", ACCOUNT),
    ("POST", "/account/export", ACCOUNT),
    ("GET", "/account/usage", USAGE),
    ("GET", "/account/statements", USAGE),
    ("GET", "/account/statements/{month}", USAGE),
    ("POST", "/sandboxes", CREATE),
    ("GET", "/sandboxes", READ),
    ("GET", "/sandboxes/{id}", READ),
    ("DELETE", "/sandboxes/{id}", CREATE),
    ("POST", "/sandboxes/{id}/timeout", CREATE),
    ("POST", "/sandboxes/{id}/pause", CREATE),
    ("POST", "/sandboxes/{id}/resume", CREATE),
    ("POST", "/sandboxes/{id}/code", EXEC),
    ("POST", "/sandboxes/{id}/commands", EXEC),
    ("GET", "/sandboxes/{id}/commands", EXEC),
    ("GET", "/sandboxes/{id}/commands/{pid}", EXEC),
    ("DELETE", "/sandboxes/{id}/commands/{pid}", EXEC),
    ("POST", "/sandboxes/{id}/commands/{pid}/stdin", EXEC),
    ("GET", "/sandboxes/{id}/commands/{pid}/stream", EXEC),
    ("GET", "/sandboxes/{id}/files", EXEC),
    ("POST", "/sandboxes/{id}/files", EXEC),
    ("DELETE", "/sandboxes/{id}/files", EXEC),
    ("POST", "/sandboxes/{id}/files/batch", EXEC),
    ("POST", "/sandboxes/{id}/files/upload", EXEC),
    ("GET", "/sandboxes/{id}/files/download", EXEC),
    ("GET", "/sandboxes/{id}/files/list", EXEC),
    ("GET", "/sandboxes/{id}/files/exists", EXEC),
    ("GET", "/sandboxes/{id}/files/info", EXEC),
    ("POST", "/sandboxes/{id}/files/rename", EXEC),
    ("POST", "/sandboxes/{id}/files/mkdir", EXEC),
    ("GET", "/health", Access::Public),
    ("GET", "/status", Access::Public),
    ("GET", "/metrics", Access::Public),
    ("GET", "/openapi.json", Access::Public),
    ("GET", "/dev/mailbox", Access::Public),
];

/// The row of a request. HEAD asks for what GET asks for.
pub fn of(method: &Method, template: &str) -> Option<Access> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    TABLE.iter().find(|row| row.0 == method && row.1 == template).map(|row| row.2)
}
