//! The export: one at a time of each account, and only for as long as its credential is good.

use data_encoding::BASE64;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::token::{Scope, TokenKind};
use omnirun_events::unit::Seconds;
use omnirun_gateway::config::{Config, Times};

use crate::call::Call;
use crate::world::{World, eventually_async};

fn export(token: &str) -> Call {
    Call::new("POST", "/account/export").key(token)
}

/// An export that is larger than what waits for a client, of which none is taken.
async fn untaken(world: &World, token: &str) -> Response<Incoming> {
    for _ in 0..10 {
        let mut noise = [0; 75_000];
        getrandom::fill(&mut noise).expect("the system's random source");
        let sandbox = SandboxId::from_bytes(world.writer.fresh());
        let at = world.writer.request(world.account, sandbox, Some(BASE64.encode(&noise))).await;
        world.reach(at).await;
    }
    let begun = export(token).start_over_http_2(world.gateway, "app.example").await;
    assert_eq!(begun.status(), StatusCode::OK);
    begun
}

/// Waits until the account has its turn again.
async fn another(world: &World, token: &str) {
    eventually_async(async || {
        let again = export(token).send(world.gateway).await;
        (again.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_account_has_one_export_at_a_time_and_another_account_its_own() {
    let world = World::new().await;
    let other = AccountId::from_bytes(world.writer.fresh());
    world.open(other).await;
    let token = world.token().await;
    let (others, _) = world.credential(other, TokenKind::Api, &Scope::ALL).await;
    let held = world.commands.vouching.lock().await;
    let first = export(&token).start(world.gateway).await;
    assert_eq!(first.status(), StatusCode::OK);
    let second = export(&token).send(world.gateway).await;
    assert_eq!((second.status, second.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
    assert!(second.header("retry-after").is_some());
    let theirs = export(&others).start(world.gateway).await;
    assert_eq!(theirs.status(), StatusCode::OK);
    drop(held);
    first.into_body().collect().await.expect("a whole archive");
    another(&world, &token).await;
}

#[tokio::test]
async fn an_export_breaks_off_when_its_credential_ends() {
    // Looking again by the clock alone would take an hour.
    let times = Times { recheck: Seconds(3_600), ..Times::default() };
    let world = World::with(Config { times, ..Config::default() }).await;
    let (token, id) = world.credential(world.account, TokenKind::Api, &Scope::ALL).await;
    let _held = world.commands.vouching.lock().await;
    let begun = export(&token).start(world.gateway).await;
    assert_eq!(begun.status(), StatusCode::OK);
    world.revoke(world.account, id).await;
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), begun.into_body().collect()).await;
    assert!(end.expect("it ends").is_err(), "half an archive does not look whole");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_export_gives_its_turn_back_in_time() {
    let times = Times { stalled: Seconds(1), ..Times::default() };
    let world = World::with(Config { times, ..Config::default() }).await;
    let token = world.token().await;
    let _untaken = untaken(&world, &token).await;
    another(&world, &token).await;
}

#[tokio::test]
async fn an_export_of_which_nothing_is_taken_is_over_when_its_credential_ends() {
    let times = Times { stalled: Seconds(3_600), recheck: Seconds(3_600), ..Times::default() };
    let world = World::with(Config { times, ..Config::default() }).await;
    let (token, id) = world.credential(world.account, TokenKind::Api, &Scope::ALL).await;
    let _untaken = untaken(&world, &token).await;
    assert_eq!(export(&token).send(world.gateway).await.code(), "busy");
    world.revoke(world.account, id).await;
    another(&world, &world.token().await).await;
}
