//! Who may do what: every route of the OpenAPI document against every kind of caller.

use hyper::StatusCode;
use omnirun_events::id::AccountId;
use omnirun_events::token::{Scope, TokenKind};
use omnirun_events::unit::{Day, Timestamp};
use omnirun_gateway::access::{Access, TABLE};
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::world::World;

/// What each route is sent: method, template, query, JSON body. A route that is not here fails the test.
fn samples() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let none = Value::Null;
    vec![
        ("POST", "/auth/magic-link/request", "", json!({"email": "a@example.org"})),
        ("POST", "/auth/otp/verify", "", json!({"email": "a@example.org", "code": "123456"})),
        ("POST", "/auth/tokens/leaked", "", json!({"token": "omr_x"})),
        ("POST", "/auth/logout", "", none.clone()),
        ("GET", "/auth/sessions", "", none.clone()),
        ("DELETE", "/auth/sessions", "", none.clone()),
        ("DELETE", "/auth/sessions/{id}", "", none.clone()),
        ("GET", "/tokens", "", none.clone()),
        ("POST", "/tokens", "", json!({"name": "n", "scopes": ["account:*"]})),
        ("DELETE", "/tokens/{id}", "", none.clone()),
        ("GET", "/account", "", none.clone()),
        ("DELETE", "/account", "", json!({"confirm": "a@example.org"})),
        ("PATCH", "/account", "", json!({"email": "b@example.org"})),
        ("POST", "/account/export", "", none.clone()),
        ("GET", "/account/usage", "", none.clone()),
        ("GET", "/account/statements", "", none.clone()),
        ("GET", "/account/statements/{month}", "", none.clone()),
        ("POST", "/sandboxes", "", json!({})),
        ("GET", "/sandboxes", "", none.clone()),
        ("GET", "/sandboxes/{id}", "", none.clone()),
        ("DELETE", "/sandboxes/{id}", "", none.clone()),
        ("POST", "/sandboxes/{id}/timeout", "", json!({"timeout": 60})),
        ("POST", "/sandboxes/{id}/pause", "", none.clone()),
        ("POST", "/sandboxes/{id}/resume", "", none.clone()),
        ("POST", "/sandboxes/{id}/code", "", json!({"code": "1", "language": "python"})),
        ("POST", "/sandboxes/{id}/commands", "", json!({"command": "true"})),
        ("GET", "/sandboxes/{id}/commands", "", none.clone()),
        ("GET", "/sandboxes/{id}/commands/{pid}", "", none.clone()),
        ("DELETE", "/sandboxes/{id}/commands/{pid}", "", none.clone()),
        ("POST", "/sandboxes/{id}/commands/{pid}/stdin", "", json!({"data": "x"})),
        ("GET", "/sandboxes/{id}/commands/{pid}/stream", "", none.clone()),
        ("GET", "/sandboxes/{id}/files", "?path=a", none.clone()),
        ("POST", "/sandboxes/{id}/files", "", json!({"path": "a", "content": "b"})),
        ("DELETE", "/sandboxes/{id}/files", "?path=a", none.clone()),
        ("POST", "/sandboxes/{id}/files/batch", "", json!([{"path": "a", "content": "b"}])),
        ("POST", "/sandboxes/{id}/files/upload", "", json!("form")),
        ("GET", "/sandboxes/{id}/files/download", "?path=a", none.clone()),
        ("GET", "/sandboxes/{id}/files/list", "?path=a", none.clone()),
        ("GET", "/sandboxes/{id}/files/exists", "?path=a", none.clone()),
        ("GET", "/sandboxes/{id}/files/info", "?path=a", none.clone()),
        ("POST", "/sandboxes/{id}/files/rename", "", json!({"oldPath": "a", "newPath": "b"})),
        ("POST", "/sandboxes/{id}/files/mkdir", "", json!({"path": "a"})),
        ("GET", "/health", "", none.clone()),
        ("GET", "/status", "", none.clone()),
        ("GET", "/metrics", "", none.clone()),
        ("GET", "/openapi.json", "", none.clone()),
        ("GET", "/dev/mailbox", "", none),
    ]
}

/// The month that the account has a statement of: January 2027.
const MONTH: &str = "2027-01";
const FIRST_DAY: Day = Day(20_819);

/// One route's request about fresh things of the world's account.
async fn sample(world: &World, method: &str, template: &str) -> Call {
    let all = samples();
    let row = all.iter().find(|row| row.0 == method && row.1 == template);
    let (_, _, query, body) = row.unwrap_or_else(|| panic!("{method} {template} has no row in this test"));
    let id = if template.starts_with("/tokens") {
        world.credential(world.account, TokenKind::Api, &Scope::ALL).await.1.to_string()
    } else if template.starts_with("/auth/sessions") {
        world.credential(world.account, TokenKind::Cli, &Scope::ALL).await.1.to_string()
    } else {
        world.sandbox().await.to_string()
    };
    // The worker of this test keeps streams of pid 7 open; 6 ends at once.
    let path = template.replace("{id}", &id).replace("{pid}", "6").replace("{month}", MONTH) + query;
    let call = Call::new(method, path);
    match body {
        Value::Null => call,
        Value::String(_) => {
            let form = "--b\r\ncontent-disposition: form-data; name=\"path\"\r\n\r\na\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nbytes\r\n--b--\r\n";
            call.body("multipart/form-data; boundary=b", form)
        }
        body => call.json(body),
    }
}

async fn send(world: &World, (method, template): (&str, &str), with: impl FnOnce(Call) -> Call) -> Answer {
    with(sample(world, method, template).await).send(world.gateway).await
}

fn document_routes(document: &Value) -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            routes.push((method.to_ascii_uppercase(), path.clone()));
        }
    }
    routes.sort();
    routes
}

#[tokio::test]
async fn every_route_of_the_document_has_a_row_in_the_table_and_the_other_way_round() {
    let world = World::new().await;
    let document = Call::new("GET", "/openapi.json").send(world.gateway).await.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let mut table: Vec<_> = TABLE.iter().map(|row| (row.0.to_owned(), row.1.to_owned())).collect();
    table.sort();
    assert_eq!(document_routes(&document), table);
}

#[tokio::test]
async fn every_route_refuses_whoever_may_not_use_it_and_lets_in_whoever_may() {
    let world = World::new().await;
    let document = Call::new("GET", "/openapi.json").send(world.gateway).await.json();
    world.close_month(FIRST_DAY, 5).await;
    world.meter(world.sandbox().await).await;
    let token = world.token().await;
    for path in
        ["/tokens", "/auth/sessions", "/sandboxes", "/account", "/account/usage", "/account/statements"]
    {
        let own = Call::new("GET", path).key(&token).send(world.gateway).await;
        let own = String::from_utf8_lossy(&own.body).into_owned();
        let has_one = path == "/auth/sessions" || names_of(&world).iter().any(|name| own.contains(name));
        assert!(has_one, "{path} shows nothing to be hidden from others: {own}");
    }
    let stranger = AccountId::from_bytes(world.writer.fresh());
    world.open(stranger).await;
    for (method, template) in document_routes(&document) {
        let route = (method.as_str(), template.as_str());
        let access = TABLE.iter().find(|row| (row.0, row.1) == route).expect("see the other test").2;
        let what = format!("{method} {template}");
        let anonymous = send(&world, route, |call| call).await;
        if access == Access::Public {
            assert!(!refused_for_rights(anonymous.status), "{what} is public, {}", anonymous.status);
            continue;
        }
        assert_eq!(anonymous.status, StatusCode::UNAUTHORIZED, "{what} without a credential");
        let (session, _) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
        let status = send(&world, route, |call| call.cookie(&session)).await.status;
        assert!(
            !refused_for_rights(status) && status != StatusCode::NOT_FOUND,
            "{what} in a session: {status}"
        );
        let elsewhere = send(&world, route, |call| {
            call.header("cookie", format!("omnirun_token={session}")).header("sec-fetch-site", "cross-site")
        });
        assert_eq!(elsewhere.await.status, StatusCode::FORBIDDEN, "{what} from another site");
        check_tokens(&world, route, access, stranger).await;
    }
}

async fn check_tokens(world: &World, route: (&str, &str), access: Access, stranger: AccountId) {
    let (what, account) = (format!("{} {}", route.0, route.1), world.account);
    let (scope, kind) = match access {
        Access::Scope(scope) => (Some(scope), TokenKind::Api),
        _ => (None, TokenKind::Cli),
    };
    let with: Vec<Scope> = scope.into_iter().collect();
    let without: Vec<Scope> = Scope::ALL.into_iter().filter(|other| Some(*other) != scope).collect();

    let (token, _) = world.credential(account, kind, &with).await;
    let status = send(world, route, |call| call.key(&token)).await.status;
    assert!(
        !refused_for_rights(status) && status != StatusCode::NOT_FOUND,
        "{what} with its scope: {status}"
    );
    if scope.is_some() {
        let (token, _) = world.credential(account, kind, &without).await;
        let answer = send(world, route, |call| call.key(&token)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::FORBIDDEN, "missing_scope"),
            "{what}"
        );
    }
    let (token, id) = world.credential(account, kind, &Scope::ALL).await;
    world.revoke(account, id).await;
    let status = send(world, route, |call| call.key(&token)).await.status;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{what} with a revoked token");
    let (token, _) = world.credential_until(account, kind, &Scope::ALL, Some(Timestamp(1))).await;
    let status = send(world, route, |call| call.key(&token)).await.status;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{what} with an expired token");
    let (token, _) = world.credential(stranger, kind, &Scope::ALL).await;
    let answer = send(world, route, |call| call.key(&token)).await;
    let is_about_one = route.1.contains("{id}") || route.1.contains("{month}");
    assert_eq!(
        answer.status == StatusCode::NOT_FOUND,
        is_about_one,
        "{what} by another account: {}",
        answer.status
    );
    let answer = String::from_utf8_lossy(&answer.body);
    for name in names_of(world) {
        assert!(!answer.contains(&name), "{what} shows {name} to another account: {answer}");
    }
}

/// Everything by which the world's account and what belongs to it is named.
fn names_of(world: &World) -> Vec<String> {
    let of_months = [MONTH.to_owned(), world.account.to_string()];
    world.directory.view(|directory, _| {
        let tokens = directory.tokens.of(world.account);
        let tokens = tokens.flat_map(|(id, token)| [id.to_string(), token.hint.clone()]);
        let sandboxes = directory.sandboxes.of(world.account).map(|(id, _)| id.to_string());
        tokens.chain(sandboxes).chain(of_months).collect()
    })
}

fn refused_for_rights(status: StatusCode) -> bool {
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED].contains(&status)
        || status == StatusCode::INTERNAL_SERVER_ERROR
        || status == StatusCode::UNPROCESSABLE_ENTITY
}
