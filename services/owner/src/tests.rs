//! What holds of an owner's two connections, however those at their ends behave.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_agent_api::{route, window};
use omnirun_vmm_api::owner::{CLAIM, Stage};
use tokio::net::UnixStream;

use crate::{
    double::{FakeAgent, LINE, owner},
    serve::session,
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn wait(what: &str, is_so: impl Fn() -> bool) {
    let look = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

#[tokio::test]
async fn output_that_nobody_reads_disturbs_no_other_request_to_the_agent() {
    let fake = Arc::new(FakeAgent::default());
    let agent = fake.connect().await;
    let mut unread = Vec::new();
    for command in 0..window::STREAMS / 2 {
        let request = Request::get(format!("http://agent{}/{command}/stream", route::COMMANDS));
        let request = request.body(Empty::new().map_err(|never| match never {}).boxed_unsync());
        unread.push(agent.send(request.expect("a good request")).await.expect("the agent answers"));
    }
    let room = window::STREAM as usize / LINE.len();
    wait("every stream to be full", || fake.printed.load(Ordering::SeqCst) >= unread.len() * room).await;
    agent.wait_alive(PATIENCE).await.expect("the connection is there");
    for answer in &mut unread {
        for _ in 0..room {
            answer.body_mut().frame().await.expect("it has no end").expect("the connection is there");
        }
    }
    agent.wait_alive(PATIENCE).await.expect("the connection is still there");
}

/// Asks an owner for something, and goes away once `asked` is done.
async fn ask_and_go(
    stream: UnixStream,
    path: &str,
    message: serde_json::Value,
    asked: impl Future<Output = ()>,
) {
    let (mut requests, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("an owner");
    let request = Request::post(format!("http://owner{path}"));
    let request = request.body(Full::<Bytes>::from(message.to_string())).expect("a good request");
    tokio::select! {
        _ = connection => panic!("the owner has hung up"),
        _ = requests.send_request(request) => panic!("the owner has answered"),
        () = asked => {}
    }
}

#[tokio::test]
async fn a_claim_comes_to_its_end_although_whoever_made_it_has_gone() {
    let home = tempfile::tempdir().expect("a directory for the test");
    let fake = Arc::new(FakeAgent::default());
    let owner = Arc::new(owner(home.path(), fake.connect().await));
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let served = tokio::spawn(session(owner.clone(), theirs));
    let claim = serde_json::json!({"sandbox_id": "s", "hostname": "h"});
    ask_and_go(ours, CLAIM, claim, fake.asked.notified()).await;
    served.await.expect("the owner sees that it has gone");
    fake.may_answer.notify_one();
    wait("the guest to be the sandbox's", || owner.life().stage == Stage::Claimed).await;
}
