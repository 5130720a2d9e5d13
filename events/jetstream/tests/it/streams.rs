//! What a server's streams must be, and who makes them so.

use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context};
use omnirun_events::Log;
use omnirun_jetstream::connect::connect;
use omnirun_jetstream::{Applied, ApplyError, ConnectError, JetStreamLog, Replicas, apply_streams};
use omnirun_test_support::NatsServer;

use crate::common;

/// The streams of a new server, and the means to bend one.
async fn bent(bend: impl FnOnce(&mut Config)) -> (NatsServer, Context) {
    let server = common::server().await;
    let context = jetstream::new(connect(&common::options(&server.url())).await.expect("up"));
    let mut stream = context.get_stream("EVENTS").await.expect("it was applied");
    let mut config = stream.info().await.expect("up").config.clone();
    bend(&mut config);
    context.delete_stream("EVENTS").await.expect("a user without limits may");
    context.create_stream(config).await.expect("the server allows it");
    (server, context)
}

async fn refusal(server: &NatsServer) -> ConnectError {
    match JetStreamLog::connect(&common::options(&server.url())).await {
        Err(error) => error,
        Ok(_) => panic!("such a server must not be used"),
    }
}

#[tokio::test]
async fn a_server_without_streams_is_refused_with_the_command_that_makes_them() {
    let server = NatsServer::start();
    let refused = refusal(&server).await;
    assert!(matches!(refused, ConnectError::Missing { .. }), "{refused:?}");
    assert!(refused.to_string().contains("run omnirun ops streams apply"), "{refused}");
    let client = connect(&common::options(&server.url())).await.expect("up");
    let made = jetstream::new(client).get_stream("EVENTS").await;
    assert!(made.is_err(), "connecting makes no stream");
}

#[tokio::test]
async fn applying_twice_changes_nothing() {
    let server = NatsServer::start();
    let client = connect(&common::options(&server.url())).await.expect("up");
    let first = apply_streams(&client, Replicas(1)).await.expect("a new server takes them");
    assert_eq!(first.len(), 17);
    assert!(first.iter().all(|(_, applied)| *applied == Applied::Created), "{first:?}");
    let second = apply_streams(&client, Replicas(1)).await.expect("they are there");
    assert!(second.iter().all(|(_, applied)| *applied == Applied::Unchanged), "{second:?}");
    JetStreamLog::connect(&common::options(&server.url())).await.expect("as wanted");
}

#[tokio::test]
async fn a_stream_that_drops_old_records_is_refused_and_can_be_mended() {
    let (server, context) = bent(|config| config.max_messages = 1_000).await;
    let refused = refusal(&server).await;
    assert!(refused.to_string().contains("max_msgs is 1000, wanted -1"), "{refused}");
    let applied = apply_streams(&context.client(), Replicas(1)).await.expect("this can be changed");
    let (log, what) = &applied[0];
    assert!(
        matches!((log, what), (Log::Events, Applied::Updated(changes)) if changes.len() == 1),
        "{what:?}"
    );
    JetStreamLog::connect(&common::options(&server.url())).await.expect("as wanted now");
}

#[tokio::test]
async fn a_stream_in_memory_is_refused_and_left_alone() {
    let (server, context) = bent(|config| config.storage = StorageType::Memory).await;
    let refused = refusal(&server).await;
    assert!(refused.to_string().contains("storage is Memory, wanted File"), "{refused}");
    let refused = apply_streams(&context.client(), Replicas(1)).await.expect_err("no update changes this");
    assert!(matches!(&refused, ApplyError::Fixed { log: Log::Events, .. }), "{refused:?}");
    assert!(refused.to_string().contains("storage is Memory, wanted File"), "{refused}");
}
