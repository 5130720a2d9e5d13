//! Wrong requests: each gets a 4xx that repeats nothing of it, and nothing else happens.

use hyper::StatusCode;
use serde_json::json;

use crate::call::Call;
use crate::world::World;

const CANARY: &str = "kanarienvogel";

fn wrong_control() -> Vec<(u16, Call)> {
    let post = |path: &str| Call::new("POST", path);
    let sandbox = |body: serde_json::Value| post("/sandboxes").json(&body);
    vec![
        (404, Call::new("GET", format!("/{CANARY}"))),
        (404, post("/sandboxes/aaaaaaaaaaaaaaaaaaaaaaaaaa/pause")),
        (404, Call::new("GET", format!("/sandboxes/{CANARY}"))),
        (404, Call::new("DELETE", format!("/tokens/{CANARY}"))),
        (405, Call::new("PATCH", "/sandboxes")),
        (405, Call::new(CANARY, "/sandboxes")),
        (415, post("/sandboxes").body("text/plain", "{}")),
        (400, post("/sandboxes").body("application/json", CANARY)),
        (400, post("/sandboxes").body("application/json", "")),
        (413, post("/sandboxes").body("application/json", format!("\"{}\"", CANARY.repeat(40_000)))),
        (422, sandbox(json!({"timeout": CANARY}))),
        (422, sandbox(json!({"timeout": -1}))),
        (422, sandbox(json!({"template": "a", "templateID": CANARY}))),
        (422, sandbox(json!({"template": "../kanarienvogel"}))),
        (422, sandbox(json!({"cpuCount": 0}))),
        (422, sandbox(json!({"internet": true}))),
        (422, sandbox(json!({"secure": true}))),
        (422, sandbox(json!({"network": {"allowDomains": [CANARY]}}))),
        (422, sandbox(json!({"e2ee": true, "clientPublicKey": CANARY}))),
        (422, sandbox(json!({"envVars": {"kanarien vogel": "x"}}))),
        (422, sandbox(json!({"envVars": {"A": "kanarienvogel\u{0}"}}))),
        (422, sandbox(json!({"metadata": {"a": {"b": CANARY}}}))),
        (422, sandbox(json!({"metadata": {"a": CANARY.repeat(2_000)}}))),
        (422, sandbox(json!({})).header("idempotency-key", "kanarien vogel")),
        (422, Call::new("GET", format!("/sandboxes?limit={CANARY}"))),
        (422, Call::new("GET", "/sandboxes?limit=0")),
        (422, Call::new("GET", format!("/sandboxes?state={CANARY}"))),
        (422, Call::new("GET", format!("/sandboxes?next_token={CANARY}"))),
        (422, Call::new("GET", format!("/sandboxes?metadata={CANARY}"))),
        (422, Call::new("GET", format!("/account/usage?from={CANARY}"))),
        (422, Call::new("GET", format!("/account/usage?format={CANARY}"))),
        (422, post("/tokens").json(&json!({"name": ""}))),
        (422, post("/tokens").json(&json!({"name": "n", "scopes": [CANARY]}))),
        (422, post("/tokens").json(&json!({"name": "n", "expiresInDays": 99_999}))),
        (422, post("/auth/magic-link/request").json(&json!({"email": CANARY}))),
        (422, post("/auth/magic-link/request").json(&json!({"email": "a@b.example", "bind": CANARY}))),
        (
            401,
            post("/auth/otp/verify")
                .json(&json!({"email": "a@b.example", "code": "1", "challengeId": CANARY})),
        ),
        (401, post("/auth/otp/verify").json(&json!({"email": "a@b.example", "code": CANARY.repeat(9)}))),
    ]
}

fn wrong_data(id: &str) -> Vec<(u16, Call)> {
    let on = |rest: &str| format!("/sandboxes/{id}{rest}");
    let post = |rest: &str, body: serde_json::Value| Call::new("POST", on(rest)).json(&body);
    vec![
        (422, post("/commands", json!({}))),
        (422, post("/commands", json!({"command": [CANARY]}))),
        (422, post("/commands", json!({"command": "kanarienvogel\u{0}"}))),
        (422, post("/commands", json!({"command": "x", "user": "../kanarienvogel"}))),
        (422, post("/code", json!({"code": "x", "language": CANARY}))),
        (404, Call::new("GET", on("/commands/kanarienvogel"))),
        (404, Call::new("DELETE", on("/commands/0"))),
        (422, Call::new("GET", on("/files"))),
        (422, Call::new("GET", on("/files?path="))),
        (422, Call::new("GET", on("/files?path=kanarienvogel%00"))),
        (422, Call::new("GET", on("/files?path=kanarienvogel/../../x"))),
        (422, Call::new("GET", on("/files/list?path=a&depth=33"))),
        (422, Call::new("GET", on("/files/list?path=kanarienvogel&path=b"))),
        (422, post("/files", json!({"path": "../kanarienvogel", "content": ""}))),
        (422, post("/files", json!({"path": "a"}))),
        (422, post("/files/batch", json!([]))),
        (422, post("/files/batch", json!([{"path": "a", "content": ""}, {"path": "..", "content": CANARY}]))),
        (422, post("/files/rename", json!({"oldPath": "a", "newPath": "/../kanarienvogel"}))),
        (415, post("/files/upload", json!({"path": CANARY}))),
        (400, Call::new("POST", on("/files/upload")).body("multipart/form-data; boundary=b", CANARY)),
        (422, upload(&on("/files/upload"), &[("file", CANARY)])),
        (422, upload(&on("/files/upload"), &[("path", "../kanarienvogel"), ("file", "x")])),
    ]
}

pub fn upload(path: &str, fields: &[(&str, &str)]) -> Call {
    let mut form = String::new();
    for (name, value) in fields {
        form.push_str(&format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
    }
    Call::new("POST", path).body("multipart/form-data; boundary=b", form + "--b--\r\n")
}

#[tokio::test]
async fn a_wrong_request_is_refused_in_words_of_ours_and_nothing_else_happens() {
    let world = World::new().await;
    let (token, sandbox) = (world.token().await, world.sandbox().await);
    let calls = wrong_control().into_iter().chain(wrong_data(&sandbox.to_string()));
    for (number, (status, call)) in calls.enumerate() {
        let answer = call.key(&token).send(world.gateway).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), status, "request {number}: {text}");
        let body = answer.json();
        assert!(
            body["code"].is_string() && body["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{number}"
        );
        assert!(!text.contains("kanarien"), "request {number} is repeated: {text}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("server"), None);
    }
    assert!(world.commands.asked().is_empty(), "no command follows a wrong request");
    assert!(world.worker.seen().is_empty(), "no guest sees a wrong request");
}

#[tokio::test]
async fn a_credential_counts_in_one_place_at_a_time() {
    let world = World::new().await;
    let (token, other) = (world.token().await, world.token().await);
    let get = |path: &str| Call::new("GET", path);
    let both = get("/sandboxes").key(&token).header("authorization", format!("Bearer {other}"));
    assert_eq!(both.send(world.gateway).await.status, StatusCode::BAD_REQUEST);
    let same = get("/sandboxes").key(&token).header("authorization", format!("Bearer {token}"));
    assert_eq!(same.send(world.gateway).await.status, StatusCode::OK);
    for path in [format!("/sandboxes?token={token}"), format!("/sandboxes?api_key={token}")] {
        assert_eq!(get(&path).send(world.gateway).await.status, StatusCode::UNAUTHORIZED);
    }
    let in_cookie = get("/sandboxes").cookie(&token).send(world.gateway).await;
    assert_eq!(in_cookie.status, StatusCode::UNAUTHORIZED, "a program's token is no session");
}
