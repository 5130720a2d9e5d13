//! The way into guests.

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use hyper::StatusCode;
use omnirun_events::id::AccountId;
use omnirun_events::keys::Digest;
use omnirun_events::token::{Scope, TokenKind};
use omnirun_events::unit::{Millis, Seconds};
use omnirun_gateway::config::{Config, Limits, Times};
use omnirun_worker_api::capability::Verb;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::bad_input::upload;
use crate::call::Call;
use crate::world::{World, eventually, join};

#[tokio::test]
async fn a_command_reaches_the_guest_and_its_outcome_comes_back_without_the_guests_headers() {
    let world = World::new().await;
    let (token, id) = (world.token().await, world.sandbox().await);
    let body = json!({"command": "echo canary", "envs": {"A": "b"}});
    let call = Call::new("POST", format!("/sandboxes/{id}/commands")).key(&token).json(&body);
    let answer = call.header("idempotency-key", "k-1").send(world.gateway).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (StatusCode::OK, None));
    assert_eq!(answer.json(), json!({"stdout": "out", "stderr": "", "exit_code": 0}));
    let seen = world.worker.seen();
    assert!(matches!(seen.as_slice(), [one] if one.verb == Verb::Use && one.path == "/commands"));
    assert!(String::from_utf8_lossy(seen[0].body.as_ref().expect("whole")).contains("echo canary"));
    assert!(world.commands.asked().is_empty(), "what runs in a guest is no command of the bus");
}

#[tokio::test]
async fn a_guests_refusal_is_passed_on_only_in_its_proper_form() {
    let world = World::new().await;
    let (token, id) = (world.token().await, world.sandbox().await);
    let get = |pid: u32| Call::new("GET", format!("/sandboxes/{id}/commands/{pid}")).key(&token);
    let refused = get(8).send(world.gateway).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::NOT_FOUND, "not_found"));
    let liar = get(9).send(world.gateway).await;
    assert_eq!((liar.status, liar.code().as_str()), (StatusCode::BAD_GATEWAY, "guest_failed"));
}

#[tokio::test]
async fn an_upload_arrives_whole_and_a_download_is_an_attachment() {
    let world = World::new().await;
    let (token, id) = (world.token().await, world.sandbox().await);
    let file = "x".repeat(3_000_000);
    let call = upload(&format!("/sandboxes/{id}/files/upload"), &[("path", "dir/a b"), ("file", &file)]);
    let answer = call.key(&token).send(world.gateway).await;
    assert_eq!((answer.status, answer.json()["size"].as_u64()), (StatusCode::OK, Some(3_000_000)));
    assert_eq!(world.worker.seen()[0].path, "/files/upload?path=dir%2Fa%20b");
    let get = Call::new("GET", format!("/sandboxes/{id}/files/download?path=a")).key(&token);
    let answer = get.send(world.gateway).await;
    assert_eq!(answer.body, Bytes::from_static(b"the bytes"));
    assert_eq!(answer.header("content-disposition"), Some("attachment"));
}

#[tokio::test]
async fn an_upload_beyond_the_limit_is_cut_off_and_never_taken_for_a_whole_file() {
    let limits = Limits { upload: omnirun_events::unit::Bytes(1_000_000), ..Limits::default() };
    let world = World::with(Config { limits, ..Config::default() }).await;
    let (token, id) = (world.token().await, world.sandbox().await);
    let file = "x".repeat(3_000_000);
    let call = upload(&format!("/sandboxes/{id}/files/upload"), &[("path", "a"), ("file", &file)]);
    let announced = call.clone().key(&token).send(world.gateway).await;
    assert_eq!(announced.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(world.worker.seen().is_empty(), "no guest sees what says that it is too large");
    let unannounced = call.key(&token).header("transfer-encoding", "chunked").send(world.gateway).await;
    assert_eq!(unannounced.status, StatusCode::PAYLOAD_TOO_LARGE);
    let seen = eventually(|| world.worker.seen().pop()).await;
    assert_eq!(seen.body, Err(()));
}

async fn streaming(world: &World) -> (hyper::Response<hyper::body::Incoming>, mpsc::Sender<Bytes>) {
    let (token, id) = (world.token().await, world.sandbox().await);
    let (sender, receiver) = mpsc::channel(1);
    *world.worker.pieces.lock().expect("no panic") = Some(receiver);
    let call = Call::new("GET", format!("/sandboxes/{id}/commands/7/stream")).key(&token);
    (call.start(world.gateway).await, sender)
}

#[tokio::test]
async fn output_is_passed_on_piece_by_piece_and_a_client_that_leaves_ends_the_guests_stream() {
    let world = World::new().await;
    let (mut answer, sender) = streaming(&world).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    for piece in ["data: {\"type\":\"stdout\"}\n\n", "data: {\"type\":\"exit\"}\n\n"] {
        sender.send(Bytes::from(piece)).await.expect("somebody reads");
        let frame = answer.body_mut().frame().await.expect("not the end").expect("no error");
        assert_eq!(frame.into_data().expect("data"), piece);
    }
    drop(answer);
    let gone = tokio::time::timeout(std::time::Duration::from_secs(10), sender.closed());
    gone.await.expect("the guest's stream is cancelled");
}

/// Looking again by the clock alone would take an hour.
async fn world_that_looks_rarely() -> World {
    let times = Times { recheck: Seconds(3_600), ..Times::default() };
    World::with(Config { times, ..Config::default() }).await
}

#[tokio::test]
async fn a_stream_ends_when_its_credential_does_although_there_is_always_more_of_it() {
    let world = world_that_looks_rarely().await;
    let (token, id) = world.credential(world.account, TokenKind::Api, &Scope::ALL).await;
    let sandbox = world.sandbox().await;
    let (sender, receiver) = mpsc::channel(1);
    *world.worker.pieces.lock().expect("no panic") = Some(receiver);
    let call = Call::new("GET", format!("/sandboxes/{sandbox}/commands/7/stream")).key(&token);
    let answer = call.start(world.gateway).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let talking = tokio::spawn(async move { while sender.send(Bytes::from("more")).await.is_ok() {} });
    world.revoke(world.account, id).await;
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), answer.into_body().collect()).await;
    assert!(end.expect("it ends").is_err(), "a stream that is broken off does not look whole");
    talking.await.expect("the guest's stream is cancelled");
}

#[tokio::test]
async fn a_request_that_still_waits_for_the_guest_ends_with_its_credential() {
    let world = world_that_looks_rarely().await;
    let (token, id) = world.credential(world.account, TokenKind::Api, &Scope::ALL).await;
    let sandbox = world.sandbox().await;
    let mut tcp = TcpStream::connect(world.gateway).await.expect("the gateway listens");
    let head = format!(
        "POST /sandboxes/{sandbox}/files/upload HTTP/1.1\r\nhost: app.example\r\nx-api-key: {token}\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 9999\r\n\r\n"
    );
    let form = "--b\r\ncontent-disposition: form-data; name=\"path\"\r\n\r\na\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nhalf of it";
    tcp.write_all((head + form).as_bytes()).await.expect("a small write");
    world.revoke(world.account, id).await;
    let mut status = [0; 12];
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), tcp.read_exact(&mut status)).await;
    read.expect("it is answered before the upload is whole").expect("an answer");
    assert_eq!(String::from_utf8_lossy(&status), "HTTP/1.1 401");
}

#[tokio::test]
async fn a_stream_ends_when_nobody_can_tell_any_more_whether_its_credential_is_good() {
    let times = Times { recheck: Seconds(1), ..Times::default() };
    let world = World::with(Config { times, ..Config::default() }).await;
    let (mut answer, sender) = streaming(&world).await;
    world.cable.cut();
    sender.send(Bytes::from("within the limit")).await.expect("somebody reads");
    answer.body_mut().frame().await.expect("not the end").expect("no error");
    world.pass(Millis(61_000));
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), answer.into_body().collect()).await;
    assert!(end.expect("it ends").is_err(), "a stream that is broken off does not look whole");
    drop(sender);
}

#[tokio::test]
async fn nothing_is_sent_to_a_sandbox_that_ends() {
    let world = World::new().await;
    let (token, id) = (world.token().await, world.sandbox().await);
    let stop = Call::new("DELETE", format!("/sandboxes/{id}")).key(&token).send(world.gateway).await;
    assert_eq!(stop.status, StatusCode::NO_CONTENT);
    let call =
        Call::new("POST", format!("/sandboxes/{id}/commands")).key(&token).json(&json!({"command": "x"}));
    let answer = call.send(world.gateway).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::CONFLICT, "sandbox_ended"));
    assert!(world.worker.seen().is_empty());
}

#[tokio::test]
async fn a_host_with_another_certificate_than_it_announced_gets_nothing() {
    let world = World::new().await;
    let (token, id) = (world.token().await, world.sandbox().await);
    let at = join(&world.writer, &world.worker, Digest([0; 32])).await;
    world.reach(at).await;
    let get = Call::new("GET", format!("/sandboxes/{id}/commands")).key(&token);
    let answer = get.send(world.gateway).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "host_unreachable")
    );
    assert!(world.worker.seen().is_empty());
    let at = join(&world.writer, &world.worker, world.worker.certificate).await;
    world.reach(at).await;
    let get = Call::new("GET", format!("/sandboxes/{id}/commands")).key(&token);
    assert_eq!(get.send(world.gateway).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_requests_of_an_account_share_a_connection_to_a_host_and_no_two_accounts_do() {
    let world = World::new().await;
    let other = AccountId::from_bytes(world.writer.fresh());
    world.open(other).await;
    for (account, connections) in [(world.account, 1), (other, 2)] {
        let (token, _) = world.credential(account, TokenKind::Api, &Scope::ALL).await;
        let id = world.sandbox_of(account).await;
        let get = Call::new("GET", format!("/sandboxes/{id}/commands")).key(&token);
        let answers = join_all((0..8).map(|_| get.clone().send(world.gateway))).await;
        assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
        assert_eq!(world.worker.connections(), connections);
    }
}
