//! Sessions: listed, ended one by one and all at once, and by themselves when nobody uses them.

use hyper::StatusCode;
use omnirun_events::token::{Scope, TokenKind};
use omnirun_events::unit::Millis;
use serde_json::Value;

use crate::call::{Answer, Call};
use crate::world::{World, eventually_async};

const HOUR: Millis = Millis(3_600_000);

async fn get(world: &World, path: &str, session: &str) -> Answer {
    Call::new("GET", path).cookie(session).send(world.gateway).await
}

#[tokio::test]
async fn a_session_sees_itself_and_the_command_lines_and_no_api_token() {
    let world = World::new().await;
    let (session, id) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let (_, cli) = world.credential(world.account, TokenKind::Cli, &Scope::ALL).await;
    world.token().await;
    let list = get(&world, "/auth/sessions", &session).await.json();
    let shown: Vec<(&Value, &Value)> =
        list.as_array().expect("a list").iter().map(|one| (&one["id"], &one["current"])).collect();
    assert_eq!(shown.len(), 2);
    assert!(shown.contains(&(&Value::from(id.to_string()), &Value::from(true))));
    assert!(shown.contains(&(&Value::from(cli.to_string()), &Value::from(false))));
    let used: Vec<bool> =
        list.as_array().expect("a list").iter().map(|one| one["lastUsedOn"].is_string()).collect();
    assert_eq!(used.iter().filter(|used| **used).count(), 1, "the asking one alone was used");
}

#[tokio::test]
async fn ending_another_session_leaves_the_asking_one_and_ending_itself_clears_the_cookie() {
    let world = World::new().await;
    let (session, id) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let (other, other_id) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let end = |id: String| Call::new("DELETE", format!("/auth/sessions/{id}")).cookie(&session);
    let ended = end(other_id.to_string()).send(world.gateway).await;
    assert_eq!((ended.status, ended.header("set-cookie")), (StatusCode::NO_CONTENT, None));
    assert_eq!(get(&world, "/sandboxes", &other).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&world, "/sandboxes", &session).await.status, StatusCode::OK);
    let ended = end(id.to_string()).send(world.gateway).await;
    assert!(ended.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    assert_eq!(get(&world, "/sandboxes", &session).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_api_token_is_no_session_to_end() {
    let world = World::new().await;
    let (session, _) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let (_, token) = world.credential(world.account, TokenKind::Api, &Scope::ALL).await;
    let call = Call::new("DELETE", format!("/auth/sessions/{token}")).cookie(&session);
    assert_eq!(call.send(world.gateway).await.status, StatusCode::NOT_FOUND);
    assert!(world.commands.asked().is_empty());
}

#[tokio::test]
async fn signing_out_everywhere_ends_every_session_and_no_api_token() {
    let world = World::new().await;
    let (session, id) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let (other, other_id) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let token = world.token().await;
    let both = [(world.account, id), (world.account, other_id)];
    world.commands.signed_in.lock().expect("no panic").extend(both);
    let out = Call::new("DELETE", "/auth/sessions").cookie(&session).send(world.gateway).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    assert!(out.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    for ended in [&session, &other] {
        assert_eq!(get(&world, "/sandboxes", ended).await.status, StatusCode::UNAUTHORIZED);
    }
    let list = Call::new("GET", "/sandboxes").key(&token).send(world.gateway).await;
    assert_eq!(list.status, StatusCode::OK);
}

#[tokio::test]
async fn a_session_ends_when_nobody_uses_it_for_a_day_and_each_use_counts() {
    let world = World::new().await;
    let (session, _) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let (cli, _) = world.credential(world.account, TokenKind::Cli, &Scope::ALL).await;
    // Past the hours without the log, the gateway has to see it again first.
    let seen = async |credential: &dyn Fn(Call) -> Call| {
        eventually_async(async || {
            let answer = credential(Call::new("GET", "/sandboxes")).send(world.gateway).await;
            (answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer.status)
        })
        .await
    };
    for _ in 0..3 {
        world.pass(Millis(23 * HOUR.0));
        assert_eq!(seen(&|call| call.cookie(&session)).await, StatusCode::OK);
    }
    world.pass(Millis(24 * HOUR.0));
    assert_eq!(seen(&|call| call.cookie(&session)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(seen(&|call| call.key(&cli)).await, StatusCode::OK, "a command line may rest");
}

#[tokio::test]
async fn an_account_shows_its_address_its_plan_and_how_much_else_is_held() {
    let world = World::new().await;
    let (session, _) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    world.token().await;
    world.sandbox().await;
    let shown = get(&world, "/account", &session).await.json();
    assert_eq!(shown["email"], "someone@example.org");
    assert_eq!(shown["plan"], "sandbox");
    assert_eq!((&shown["held"]["tokens"], &shown["held"]["sessions"]), (&1.into(), &1.into()));
    assert_eq!(shown["held"]["sandboxes"], 1);
    let mut fields: Vec<&str> = shown.as_object().expect("an object").keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["createdAt", "email", "held", "id", "plan"], "and nothing else");
}
