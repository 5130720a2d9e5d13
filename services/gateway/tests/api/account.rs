//! The account: what is held, and its correction.

use hyper::StatusCode;
use omnirun_commands_api::Command;
use omnirun_events::id::ChallengeId;
use omnirun_events::token::{Scope, TokenKind};
use omnirun_events::unit::Day;
use serde_json::json;

use crate::call::Call;
use crate::world::World;

#[tokio::test]
async fn the_address_changes_in_two_steps() {
    let world = World::new().await;
    let token = world.token().await;
    let patch = |body| Call::new("PATCH", "/account").key(&token).json(&body);
    let asked = patch(json!({"email": "new@example.org"})).send(world.gateway).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED);
    let asked = asked.json();
    assert_eq!((asked["expiresIn"].as_u64(), asked["resendAfter"].as_u64()), (Some(600), Some(30)));
    let body = json!({"email": "new@example.org", "code": "123 456", "challengeId": asked["challengeId"]});
    let done = patch(body).send(world.gateway).await;
    assert_eq!((done.status, done.json()["email"].as_str()), (StatusCode::OK, Some("new@example.org")));
    let get = Call::new("GET", "/account").key(&token).send(world.gateway).await;
    assert_eq!(get.json()["email"], "new@example.org");
    for envelope in world.commands.asked() {
        let said = format!("{envelope:?}");
        assert!(!said.contains("123") && !said.contains("example.org"), "{said}");
    }
}

#[tokio::test]
async fn a_correction_that_is_none_asks_nobody() {
    let world = World::new().await;
    let token = world.token().await;
    let patch = async |body| Call::new("PATCH", "/account").key(&token).json(&body).send(world.gateway).await;
    for body in [json!({}), json!({"email": ""}), json!({"email": "nobody"}), json!({"email": 7})] {
        let answer = patch(body).await;
        assert!([StatusCode::UNPROCESSABLE_ENTITY, StatusCode::BAD_REQUEST].contains(&answer.status));
    }
    let challenge = ChallengeId::from_bytes([1; 16]).to_string();
    for (code, challenge) in [("", Some(challenge.as_str())), ("123456", None), ("123456", Some("x"))] {
        let body = json!({"email": "b@example.org", "code": code, "challengeId": challenge});
        let answer = patch(body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::UNAUTHORIZED, "invalid_or_expired_code")
        );
    }
    assert!(!world.commands.asked().iter().any(|asked| matches!(asked.command, Command::ChangeEmail { .. })));
}

#[tokio::test]
async fn the_account_says_how_much_is_held_of_everything() {
    let world = World::new().await;
    let token = world.token().await;
    world.credential(world.account, TokenKind::Session, &Scope::ALL).await;
    world.meter(world.sandbox().await).await;
    world.close_month(Day(20_819), 5).await;
    let account = Call::new("GET", "/account").key(&token).send(world.gateway).await.json();
    let held = json!({"tokens": 1, "sessions": 1, "sandboxes": 1, "metered": 1, "statements": 1});
    assert_eq!(account["held"], held);
}
