//! Sandboxes: made, listed, ended.

use hyper::StatusCode;
use omnirun_commands_api::Command;
use omnirun_commands_api::command::Personal;
use omnirun_worker_api::capability::Verb;
use serde_json::json;

use crate::call::Call;
use crate::world::{Fate, World, eventually};

fn stops(world: &World) -> usize {
    world.commands.asked().iter().filter(|one| matches!(one.command, Command::StopSandbox { .. })).count()
}

#[tokio::test]
async fn a_sandbox_is_answered_when_it_runs_and_its_guest_has_its_environment() {
    let world = World::new().await;
    let token = world.token().await;
    let body = json!({"templateID": "python-3.11", "envVars": {"SECRET": "canary-env"}, "metadata": {"name": "mine", "k": "v"}});
    let answer = Call::new("POST", "/sandboxes").key(&token).json(&body).send(world.gateway).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let made = answer.json();
    assert_eq!((made["state"].as_str(), made["templateID"].as_str()), (Some("running"), Some("python-3.11")));
    assert!(made["startedAt"].is_string() && made["endAt"].is_string());
    let seen = world.worker.seen();
    assert!(matches!(seen.as_slice(), [one] if one.verb == Verb::Prepare && one.path == "/envs"));
    assert!(String::from_utf8_lossy(seen[0].body.as_ref().expect("whole")).contains("canary-env"));
    for envelope in world.commands.asked() {
        let Command::RequestSandbox { wish, .. } = envelope.command else { continue };
        assert_eq!(wish.metadata.as_ref().map(Personal::reveal), Some(r#"{"k":"v","name":"mine"}"#));
    }
    let id = made["sandboxID"].as_str().expect("an id");
    let get = Call::new("GET", format!("/sandboxes/{id}")).key(&token).send(world.gateway).await.json();
    assert_eq!((get["name"].as_str(), get["metadata"]["k"].as_str()), (Some("mine"), Some("v")));
    assert_eq!(stops(&world), 0, "a sandbox that was handed over is kept");
}

#[tokio::test]
async fn without_capacity_the_client_is_asked_to_come_again() {
    let world = World::new().await;
    let token = world.token().await;
    *world.commands.fate.lock().expect("no panic") = Fate::NoCapacity;
    let answer = Call::new("POST", "/sandboxes").key(&token).json(&json!({})).send(world.gateway).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "no_capacity"));
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_sandbox_behind_unless_it_can_ask_again() {
    let world = World::new().await;
    let token = world.token().await;
    *world.commands.fate.lock().expect("no panic") = Fate::NobodyClaims;
    for key in [Some("k-1"), None] {
        let mut call = Call::new("POST", "/sandboxes").key(&token).json(&json!({}));
        if let Some(key) = key {
            call = call.header("idempotency-key", key);
        }
        let before = world.commands.asked().len();
        let going = tokio::spawn(call.start(world.gateway));
        eventually(|| (world.commands.asked().len() > before).then_some(())).await;
        going.abort();
        let _ = going.await;
    }
    // The one without a key came second: its stop is the only one, however late the first is.
    eventually(|| (stops(&world) == 1).then_some(())).await;
    let requested = world
        .commands
        .asked()
        .into_iter()
        .filter(|one| matches!(one.command, Command::RequestSandbox { .. }));
    let ids: Vec<_> = requested.map(|one| one.id).collect();
    let stopped = world.commands.asked().into_iter().find_map(|one| match one.command {
        Command::StopSandbox { sandbox, .. } => Some(sandbox),
        _ => None,
    });
    assert_eq!(stopped, Some(omnirun_events::SandboxId::derive(ids[1].as_bytes(), "sandbox")));
}

#[tokio::test]
async fn one_key_is_one_sandbox() {
    let world = World::new().await;
    let token = world.token().await;
    let make =
        || Call::new("POST", "/sandboxes").key(&token).json(&json!({})).header("idempotency-key", "once");
    let (one, two) = (make().send(world.gateway).await.json(), make().send(world.gateway).await.json());
    assert_eq!(one["sandboxID"], two["sandboxID"]);
}

#[tokio::test]
async fn the_list_comes_newest_first_in_pages_and_by_metadata() {
    let world = World::new().await;
    let token = world.token().await;
    let mut made = Vec::new();
    for number in 0..5 {
        let body = json!({"metadata": {"parity": (number % 2).to_string()}});
        let answer = Call::new("POST", "/sandboxes").key(&token).json(&body).send(world.gateway).await;
        made.push(answer.json()["sandboxID"].as_str().expect("an id").to_owned());
    }
    made.reverse();
    let (mut pages, mut next) = (Vec::new(), None::<String>);
    loop {
        let after = next.map(|next| format!("&next_token={next}")).unwrap_or_default();
        let call = Call::new("GET", format!("/sandboxes?limit=2{after}")).key(&token);
        let answer = call.send(world.gateway).await;
        let page = answer.json().as_array().expect("a list").clone();
        pages.extend(page.iter().map(|one| one["sandboxID"].as_str().expect("an id").to_owned()));
        next = answer.header("x-next-token").map(str::to_owned);
        if next.is_none() {
            break;
        }
    }
    assert_eq!(pages, made);
    let odd = Call::new("GET", "/sandboxes?metadata=parity:1").key(&token).send(world.gateway).await;
    let odd: Vec<_> =
        odd.json().as_array().expect("a list").iter().map(|one| one["sandboxID"].clone()).collect();
    assert_eq!(odd, [json!(made[1]), json!(made[3])]);
    let stop = Call::new("DELETE", format!("/sandboxes/{}", made[0])).key(&token).send(world.gateway).await;
    assert_eq!(stop.status, StatusCode::NO_CONTENT);
    let running = Call::new("GET", "/sandboxes?state=running").key(&token).send(world.gateway).await.json();
    assert_eq!(running.as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn a_paused_sandbox_says_how_to_go_on_and_goes_on() {
    let world = World::new().await;
    let token = world.token().await;
    let id = world.sandbox().await;
    let post = |what: &str| Call::new("POST", format!("/sandboxes/{id}/{what}")).key(&token);
    let code = || post("code").json(&json!({"code": "1", "language": "python"}));
    let state = async || {
        let get = Call::new("GET", format!("/sandboxes/{id}")).key(&token).send(world.gateway).await;
        get.json()["state"].as_str().map(str::to_owned)
    };
    let paused = post("pause").send(world.gateway).await;
    assert_eq!((paused.status, paused.json()), (StatusCode::OK, json!({"status": "paused"})));
    assert_eq!(state().await.as_deref(), Some("paused"));
    let refused = code().send(world.gateway).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::CONFLICT, "sandbox_paused"));
    assert!(
        refused.json()["message"].as_str().is_some_and(|text| text.contains("/resume")),
        "{:?}",
        refused.json()
    );
    let resumed = post("resume").send(world.gateway).await;
    assert_eq!((resumed.status, resumed.json()), (StatusCode::OK, json!({"status": "running"})));
    assert_eq!(code().send(world.gateway).await.status, StatusCode::OK);
    assert_eq!(state().await.as_deref(), Some("running"));
}

#[tokio::test]
async fn usage_is_empty_at_first_and_comes_as_json_and_csv() {
    let world = World::new().await;
    let token = world.token().await;
    world.sandbox().await;
    let get = |query: &str| Call::new("GET", format!("/account/usage{query}")).key(&token);
    let usage = get("").send(world.gateway).await.json();
    assert_eq!(usage["totals"]["wallMs"], 0);
    let before = get("?to=2001-01-01").send(world.gateway).await.json();
    assert_eq!(before["sandboxes"], json!([]));
    let csv = get("?format=csv").send(world.gateway).await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    assert!(csv.body.starts_with(b"sandboxID,"));
}
