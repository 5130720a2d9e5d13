//! What every test of this crate starts from: a server with the streams, and options with the patience of a test.

use omnirun_events::Millis;
use omnirun_jetstream::connect::connect;
use omnirun_jetstream::{Options, Replicas, apply_streams};
use omnirun_test_support::NatsServer;

/// A server with every stream.
pub async fn server() -> NatsServer {
    let server = NatsServer::start();
    let client =
        connect(&options(&server.url())).await.expect("a server that was just started takes connections");
    apply_streams(&client, Replicas(1)).await.expect("a new server takes every stream");
    server
}

/// Every log, with the patience of a test.
pub fn options(url: &str) -> Options {
    let mut options = Options::new(url);
    options.acknowledge_within = Millis(1_000);
    options
}
