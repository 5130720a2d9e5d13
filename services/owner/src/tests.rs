//! What holds of an owner's connections, however those at their ends behave.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_vmm_api::owner::{CLAIM, Stage};
use tokio::net::UnixStream;

use crate::{
    double::{FakeAgent, owner},
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
