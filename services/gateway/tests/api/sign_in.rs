//! Signing in, tokens and the cookie.

use hyper::StatusCode;
use omnirun_commands_api::Command;
use omnirun_events::token::{Scope, TokenKind};
use serde_json::json;

use crate::call::Call;
use crate::world::World;

#[tokio::test]
async fn a_program_gets_a_token_that_works_at_once() {
    let world = World::new().await;
    let asked = Call::new("POST", "/auth/magic-link/request").json(&json!({"email": "a@example.org"}));
    let asked = asked.send(world.gateway).await.json();
    assert_eq!((asked["expiresIn"].as_u64(), asked["resendAfter"].as_u64()), (Some(600), Some(30)));
    let body = json!({"email": "a@example.org", "code": "123 456", "challengeId": asked["challengeId"]});
    let answer = Call::new("POST", "/auth/otp/verify").json(&body).send(world.gateway).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (StatusCode::OK, None));
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    assert!(token.starts_with("omr_"));
    let list = Call::new("GET", "/sandboxes").key(&token).send(world.gateway).await;
    assert_eq!(list.status, StatusCode::OK);
    for envelope in world.commands.asked() {
        let said = format!("{envelope:?}");
        assert!(!said.contains("123") && !said.contains(&token), "codes and tokens stay here");
    }
}

#[tokio::test]
async fn a_browser_gets_the_cookie_and_no_token_and_signs_out_again() {
    let world = World::new().await;
    let body = json!({"email": "a@example.org", "code": "123456"});
    let verify = || Call::new("POST", "/auth/otp/verify").json(&body);
    let foreign = verify().header("sec-fetch-site", "cross-site").send(world.gateway).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    assert!(world.commands.asked().is_empty());
    let answer = verify().header("sec-fetch-site", "same-origin").send(world.gateway).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
    let set = answer.header("set-cookie").expect("the cookie").to_owned();
    let (pair, attributes) = set.split_once(';').expect("attributes");
    assert_eq!(attributes, " HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=604800");
    let session = pair.strip_prefix("omnirun_token=").expect("its name").to_owned();
    assert!(session.starts_with("oms_"));
    let get = || Call::new("GET", "/sandboxes").cookie(&session);
    assert_eq!(get().send(world.gateway).await.status, StatusCode::OK);
    let in_header = Call::new("GET", "/sandboxes").key(&session).send(world.gateway).await;
    assert_eq!(in_header.status, StatusCode::UNAUTHORIZED, "a session is no program's token");
    let out = Call::new("POST", "/auth/logout").cookie(&session).send(world.gateway).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    assert!(out.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    assert_eq!(get().send(world.gateway).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn two_session_cookies_are_refused_and_cleared() {
    let world = World::new().await;
    let (session, _) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let cookies = format!("omnirun_token={session}; omnirun_token={session}");
    let call =
        Call::new("GET", "/sandboxes").header("cookie", cookies).header("sec-fetch-site", "same-origin");
    let answer = call.send(world.gateway).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    // Neither name nor path of the one that a neighbouring host has set are known; this takes all.
    assert_eq!(answer.header("clear-site-data"), Some("\"cookies\""));
}

#[tokio::test]
async fn a_page_of_ours_may_write_over_http_2_which_has_no_host_header() {
    let world = World::new().await;
    let (session, _) = world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    let post = |origin| {
        let call = Call::new("POST", "/tokens").cookie(&session).json(&json!({"name": "n"}));
        call.header("origin", origin).over_http_2(world.gateway, "app.example")
    };
    assert_eq!(post("https://app.example").await, StatusCode::CREATED);
    assert_eq!(post("https://evil.example").await, StatusCode::FORBIDDEN);
    let mails = Call::new("GET", "/dev/mailbox").over_http_2(world.gateway, "localhost:8080").await;
    assert_eq!(mails, StatusCode::OK, "this machine is told by its authority");
    let rebound = Call::new("GET", "/dev/mailbox").over_http_2(world.gateway, "rebound.example").await;
    assert_eq!(rebound, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_token_is_shown_once_listed_by_name_and_refused_after_its_deletion() {
    let world = World::new().await;
    let admin = world.token().await;
    let make = || {
        Call::new("POST", "/tokens")
            .key(&admin)
            .json(&json!({"name": "build"}))
            .header("idempotency-key", "k-1")
    };
    let made = make().send(world.gateway).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let made = made.json();
    let token = made["token"].as_str().expect("shown once").to_owned();
    assert!(token.ends_with(made["hint"].as_str().expect("a hint")));
    let again = make().send(world.gateway).await;
    assert_eq!((again.status, again.code().as_str()), (StatusCode::CONFLICT, "already_done"));
    assert!(again.json()["message"].as_str().expect("a text").contains(made["id"].as_str().expect("an id")));
    let list = Call::new("GET", "/tokens").key(&admin).send(world.gateway).await;
    assert!(!String::from_utf8_lossy(&list.body).contains(&token));
    assert!(list.json().as_array().expect("a list").iter().any(|one| one["name"] == "build"));
    let use_it = || Call::new("GET", "/sandboxes").key(&token);
    assert_eq!(use_it().send(world.gateway).await.status, StatusCode::OK);
    let path = format!("/tokens/{}", made["id"].as_str().expect("an id"));
    assert_eq!(
        Call::new("DELETE", path).key(&admin).send(world.gateway).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(use_it().send(world.gateway).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_cannot_make_one_that_may_more_than_itself() {
    let world = World::new().await;
    let (token, _) = world.credential(world.account, TokenKind::Api, &[Scope::Account]).await;
    let answer =
        Call::new("POST", "/tokens").key(&token).json(&json!({"name": "n"})).send(world.gateway).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "missing_scope"));
    assert!(world.commands.asked().is_empty());
}

#[tokio::test]
async fn whoever_finds_a_token_can_end_it() {
    let world = World::new().await;
    let token = world.token().await;
    let unknown =
        omnirun_gateway::token::TokenText::generate(omnirun_gateway::token::Prefix::Program).reveal_once();
    for text in ["nonsense", &unknown, &token] {
        let call = Call::new("POST", "/auth/tokens/leaked").json(&json!({"token": text}));
        assert_eq!(call.send(world.gateway).await.status, StatusCode::NO_CONTENT);
    }
    let asked = world.commands.asked();
    assert!(matches!(asked.as_slice(), [one] if matches!(one.command, Command::RevokeToken { .. })));
    let answer = Call::new("GET", "/sandboxes").key(&token).send(world.gateway).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}
