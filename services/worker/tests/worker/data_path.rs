//! The data path over TLS, with owner processes that answer with what they were sent.

use http_body_util::BodyExt;
use hyper::StatusCode;
use omnirun_events::Role;
use omnirun_events::keys::Digest;
use omnirun_events::signing::Signer;
use omnirun_events::unit::Seconds;
use omnirun_worker::Stop;
use omnirun_worker_api::capability::Verb;

use crate::bed::{Bed, host, sandbox};
use crate::client::{Client, capability};

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_reaches_a_sandbox_and_nobody_else_does() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    let offer = bed.live().view(|directory, _| directory.hosts.get(host(1)).map(|host| host.offer.clone()));
    let offer = offer.expect("it has joined");
    assert_eq!((offer.address, offer.certificate), (worker.address().to_string(), worker.certificate()));
    let client = Client::connect(worker.address(), worker.certificate()).await.expect("the worker listens");

    let path = format!("/{}/commands", sandbox(50));
    let good = capability(&bed.gateway, sandbox(50), Verb::Use);
    let body = vec![7_u8; 3 << 20];
    let (status, answer) = client.ask("POST", &path, Some(&good), body.clone()).await;
    assert_eq!((status, answer.len()), (StatusCode::OK, body.len()));
    assert!(answer == body, "what came back is what was sent");

    let (status, answer) = client.ask("GET", &format!("/{}/capability", sandbox(50)), Some(&good), "").await;
    assert_eq!((status, &answer[..]), (StatusCode::OK, &b"false"[..]), "the capability stops at the worker");

    let forged = capability(&Signer::from_seed(&[77; 32], Role::Gateway), sandbox(50), Verb::Use);
    let prepare = capability(&bed.gateway, sandbox(50), Verb::Prepare);
    let envs = format!("/{}/envs", sandbox(50));
    for (path, capability, status, code) in [
        (&path, None, StatusCode::UNAUTHORIZED, "capability_invalid"),
        (&path, Some(&forged), StatusCode::UNAUTHORIZED, "capability_invalid"),
        (&path, Some(&prepare), StatusCode::FORBIDDEN, "capability_insufficient"),
        (&envs, Some(&good), StatusCode::FORBIDDEN, "capability_insufficient"),
    ] {
        let (found, answer) = client.ask("POST", path, capability.map(String::as_str), "{}").await;
        let text: serde_json::Value = serde_json::from_slice(&answer).expect("a refusal is JSON");
        assert_eq!((found, text["code"].as_str()), (status, Some(code)));
    }
    worker.stop(Stop::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_pins_another_certificate_does_not_connect() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    assert!(Client::connect(worker.address(), Digest([0; 32])).await.is_err());
    worker.stop(Stop::Leave).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_reads_cuts_off_nobody_else_in_the_sandbox() {
    let bed = Bed::new().await;
    let worker = bed.worker(1).await;
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;
    let client = Client::connect(worker.address(), worker.certificate()).await.expect("the worker listens");
    let good = capability(&bed.gateway, sandbox(50), Verb::Use);
    let mut unread = Vec::new();
    for command in 0..16 {
        let path = format!("/{}/commands/{command}/stream", sandbox(50));
        unread.push(client.begin("GET", &path, Some(&good), "").await);
    }
    // More of each than all that lie between: the last ones are read long after everything on the way was full.
    for answer in &mut unread {
        for _ in 0..10_000 {
            answer.body_mut().frame().await.expect("it has no end").expect("nothing broke");
        }
    }
    let (status, _) = client.ask("GET", &format!("/{}/metrics", sandbox(50)), Some(&good), "").await;
    assert_eq!(status, StatusCode::OK);
    worker.stop(Stop::Drain).await;
}
