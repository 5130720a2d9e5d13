//! Without the log: what was known is answered for a while, then nothing is, and it heals by itself.

use hyper::StatusCode;
use omnirun_events::token::{RevokeReason, Scope, TokenKind, TokenRevoked};
use omnirun_events::unit::{Millis, Seconds};
use omnirun_events::{Role, SubjectKind};
use omnirun_gateway::config::{Config, Times};

use crate::call::{Answer, Call};
use crate::world::{World, eventually_async};

/// So large that no busy machine passes it by itself.
const LIMIT: Seconds = Seconds(30);

async fn world() -> World {
    let times = Times { without_log: LIMIT, ..Times::default() };
    World::with(Config { times, ..Config::default() }).await
}

async fn list(world: &World, token: &str) -> Answer {
    Call::new("GET", "/sandboxes").key(token).send(world.gateway).await
}

#[tokio::test]
async fn a_known_token_is_answered_without_the_log_until_the_limit_and_again_when_it_is_back() {
    let world = world().await;
    let token = world.token().await;
    world.cable.cut();
    assert_eq!(list(&world, &token).await.status, StatusCode::OK);
    world.pass(Millis(31_000));
    let refused = list(&world, &token).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "log_unreachable")
    );
    assert_eq!(refused.header("retry-after"), Some("5"));
    let health = Call::new("GET", "/health").send(world.gateway).await;
    assert_eq!(health.code(), "log_unreachable");
    world.cable.join();
    eventually_async(async || (list(&world, &token).await.status == StatusCode::OK).then_some(())).await;
}

#[tokio::test]
async fn an_unknown_token_is_not_refused_for_good_while_nobody_can_tell() {
    let world = world().await;
    let token = world.token().await;
    world.cable.cut();
    let (unknown, _) = world.credential_unseen(world.account, TokenKind::Api, &Scope::ALL).await;
    let answer = list(&world, &unknown).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "behind"));
    assert_eq!(list(&world, &token).await.status, StatusCode::OK);
    world.cable.join();
    assert_eq!(list(&world, &unknown).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_that_was_revoked_out_of_sight_is_never_accepted_again_after_the_limit() {
    let world = world().await;
    let (token, id) = world.credential(world.account, TokenKind::Api, &Scope::ALL).await;
    world.cable.cut();
    let event = TokenRevoked { reason: RevokeReason::ByOwner }.into();
    world.writer.append(Role::Commands, SubjectKind::Token(world.account, id), vec![event]).await;
    assert_eq!(list(&world, &token).await.status, StatusCode::OK, "nobody could know");
    world.pass(Millis(31_000));
    assert_eq!(list(&world, &token).await.status, StatusCode::SERVICE_UNAVAILABLE);
    world.cable.join();
    let after = eventually_async(async || {
        let answer = list(&world, &token).await;
        (answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    });
    assert_eq!(
        after.await.status,
        StatusCode::UNAUTHORIZED,
        "the directory catches up before it is believed"
    );
}
