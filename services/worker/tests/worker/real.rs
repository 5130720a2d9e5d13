//! One real guest under QEMU, from request to nothing left. It needs a template store: `scripts/guest-image` makes it in `.data/images`, and
//! `OMNIRUN_IMAGES` names another one.

use std::path::PathBuf;

use hyper::StatusCode;
use omnirun_events::event::Event;
use omnirun_events::sandbox::StopReason;
use omnirun_events::unit::Seconds;
use omnirun_projections::sandboxes::State;
use omnirun_worker::{Stop, Worker};
use omnirun_worker_api::capability::Verb;

use crate::bed::{Bed, count, example, sandbox};
use crate::client::{Client, capability};

fn images() -> PathBuf {
    let place = std::env::var_os("OMNIRUN_IMAGES").map(PathBuf::from);
    let place =
        place.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.data/images")));
    place.canonicalize().expect("a template store: run scripts/guest-image as root")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_real_guest_and_nothing_is_left_of_it() {
    let bed = Bed::new().await;
    let mut parts = bed.parts_with(1, &example("real_owner"), &images(), &["base"]);
    parts.config.templates[0].pool = 1;
    let worker = Worker::start(parts).await.expect("a good host");
    bed.request(sandbox(50), "base", Seconds(300)).await;
    bed.running(sandbox(50)).await;

    let client = Client::connect(worker.address(), worker.certificate()).await.expect("the worker listens");
    let envs = capability(&bed.gateway, sandbox(50), Verb::Prepare);
    let body = r#"{"envs":{"GREETING":"good day"}}"#;
    let (status, _) = client.ask("POST", &format!("/{}/envs", sandbox(50)), Some(&envs), body).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let run = capability(&bed.gateway, sandbox(50), Verb::Use);
    let body = r#"{"command":"echo \"$GREETING\" from $(hostname)"}"#;
    let (status, answer) = client.ask("POST", &format!("/{}/commands", sandbox(50)), Some(&run), body).await;
    let outcome: serde_json::Value = serde_json::from_slice(&answer).expect("an outcome");
    assert_eq!(status, StatusCode::OK, "{outcome}");
    assert_eq!(outcome["stdout"], format!("good day from {}\n", sandbox(50)), "{outcome}");

    bed.request_stop(sandbox(50)).await;
    let ended = bed.ended(sandbox(50)).await;
    assert_eq!(ended.state, State::Stopped(StopReason::Requested));
    assert!(ended.meter.is_some_and(|meter| meter.wall.0 > 0 && meter.vcpu.0 > 0), "{:?}", ended.meter);
    let history = bed.history(sandbox(50)).await;
    assert_eq!(count(&history, |event| matches!(event, Event::SandboxStarted(_))), 1, "{history:?}");
    worker.stop(Stop::Drain).await;
    bed.nothing_left(1).await;
}
