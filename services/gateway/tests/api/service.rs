//! The service itself: who sees what of it, and what slow clients get.

use hyper::StatusCode;
use omnirun_events::unit::Seconds;
use omnirun_gateway::config::{Config, Times};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::call::Call;
use crate::world::World;

#[tokio::test]
async fn the_mailbox_and_the_metrics_are_for_programs_of_this_machine_alone() {
    let world = World::new().await;
    for path in ["/dev/mailbox", "/metrics"] {
        let local = || Call::new("GET", path).header("host", "localhost:8080");
        assert_eq!(local().send(world.gateway).await.status, StatusCode::OK, "{path}");
        for call in [
            Call::new("GET", path).header("host", "rebound.example"),
            local().header("x-forwarded-for", "203.0.113.9"),
            local().header("sec-fetch-site", "cross-site"),
        ] {
            assert_eq!(call.send(world.gateway).await.status, StatusCode::NOT_FOUND, "{path}");
        }
    }
    let mails = Call::new("GET", "/dev/mailbox").header("host", "127.0.0.1").send(world.gateway).await.json();
    assert_eq!(mails[0]["code"], "123456");
}

#[tokio::test]
async fn every_answer_has_the_headers_that_keep_it_where_it_belongs() {
    let world = World::new().await;
    for call in [Call::new("GET", "/health"), Call::new("GET", "/nothing"), Call::new("GET", "/sandboxes")] {
        let answer = call.send(world.gateway).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.header("content-security-policy").is_some_and(|policy| policy.contains("sandbox")));
        assert!(answer.header("strict-transport-security").is_some());
        assert_eq!((answer.header("server"), answer.header("set-cookie")), (None, None));
    }
}

/// What comes back on a connection that stops after `sent`; it has to end.
async fn stall(world: &World, sent: &str) -> String {
    let mut tcp = TcpStream::connect(world.gateway).await.expect("the gateway listens");
    tcp.write_all(sent.as_bytes()).await.expect("a small write");
    let mut answer = String::new();
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), tcp.read_to_string(&mut answer));
    // A reset is an end too.
    let _ = end.await.expect("a slow client is let go");
    answer
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_request_is_let_go() {
    let times = Times { head: Seconds(1), body: Seconds(1), ..Times::default() };
    let world = World::with(Config { times, ..Config::default() }).await;
    for sent in ["", "P", "PRI * HTTP/2.0\r\n\r\n", "GET / HTTP/1.1\r\nhost: app.example\r\n"] {
        let answer = stall(&world, sent).await;
        assert!(!answer.contains(" 200 "), "{sent}: {answer}");
    }
    let head = "POST /auth/magic-link/request HTTP/1.1\r\nhost: app.example\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    let answer = stall(&world, head).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("too_slow"), "{answer}");
    assert!(world.commands.asked().is_empty());
}
