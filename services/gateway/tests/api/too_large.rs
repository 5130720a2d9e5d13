//! Heads and bodies that are too large: refused in our words wherever hyper lets us, at once, and never repeated.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::call::Call;
use crate::world::World;

const CANARY: &str = "kanarienvogel";

fn long(bytes: usize) -> String {
    CANARY.repeat(bytes / CANARY.len() + 1)
}

/// With a hundred more headers.
fn many(call: Call) -> Call {
    (0..100).fold(call, |call, number| call.header(&format!("x-{number}"), CANARY))
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_before_its_credential_is_looked_at() {
    let world = World::new().await;
    let list = || Call::new("GET", "/sandboxes");
    for (status, code, call) in [
        (414, "url_too_long", Call::new("GET", format!("/sandboxes?metadata={}", long(16 * 1024)))),
        (414, "url_too_long", Call::new("GET", format!("/{}", long(32 * 1024)))),
        (431, "headers_too_large", list().header("x-long", long(32 * 1024))),
        (431, "headers_too_large", list().key(&long(32 * 1024))),
        (431, "headers_too_large", many(list())),
    ] {
        let answer = call.send(world.gateway).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{text}");
        assert!(!text.contains(CANARY), "it is repeated: {text}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let fits =
        Call::new("GET", format!("/sandboxes?x={}", long(12 * 1024))).header("x-long", long(20 * 1024));
    assert_eq!(fits.key(&world.token().await).send(world.gateway).await.status, 200);
}

#[tokio::test]
async fn http_2_has_the_same_limits() {
    let world = World::new().await;
    let tcp = TcpStream::connect(world.gateway).await.expect("the gateway listens");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("HTTP/2");
    tokio::spawn(connection);
    for (status, code, path, value) in [
        (414, "url_too_long", format!("/health?{}", long(16 * 1024)), String::new()),
        (431, "headers_too_large", "/health".to_owned(), long(40 * 1024)),
    ] {
        let request = hyper::Request::get(format!("http://app.example{path}")).header("x-long", value);
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status);
        let body = answer.into_body().collect().await.expect("a whole answer").to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["code"], code);
    }
}

#[tokio::test]
async fn what_hyper_refuses_by_itself_has_the_right_status_and_repeats_nothing() {
    let world = World::new().await;
    for (status, sent) in [
        ("431", format!("GET /health HTTP/1.1\r\nhost: app.example\r\nx-long: {}\r\n\r\n", long(200 * 1024))),
        ("400", format!("{CANARY} {CANARY} {CANARY}\r\n\r\n")),
    ] {
        let mut tcp = TcpStream::connect(world.gateway).await.expect("the gateway listens");
        // It may be cut off in the middle: what it answered is what counts.
        let _ = tcp.write_all(sent.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(!answer.contains(CANARY), "it is repeated: {answer}");
    }
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_not_waited_for() {
    let world = World::new().await;
    let mut tcp = TcpStream::connect(world.gateway).await.expect("the gateway listens");
    let head = "POST /auth/magic-link/request HTTP/1.1\r\nhost: app.example\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n{";
    tcp.write_all(head.as_bytes()).await.expect("a small write");
    let mut answer = [0; 12];
    tcp.read_exact(&mut answer).await.expect("an answer at once");
    assert_eq!(&answer, b"HTTP/1.1 413");
}
