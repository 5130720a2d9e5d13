//! JetStream, beside the client library's own ordered push consumer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::push::OrderedConfig;
use futures_util::StreamExt as _;
use omnirun_jetstream::connect::connect;
use omnirun_jetstream::{JetStreamLog, Options, Replicas, apply_streams};
use omnirun_test_support::NatsServer;

use super::{ROUNDS, Rounds, verify};
use crate::bench::history::fill;

pub async fn run(records: u64) -> Result<()> {
    let server = NatsServer::start();
    let options = Options::new(server.url());
    let client = connect(&options).await?;
    apply_streams(&client, Replicas(1)).await?;
    let log = JetStreamLog::connect(&options).await?;
    println!("\nJetStream: making {records} signed records");
    let began = Instant::now();
    fill(Arc::new(log.clone()), records).await?;
    println!("    made in {:.1} s", began.elapsed().as_secs_f64());

    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        rounds.add(drain(&client, records).await?, &log, records).await?;
    }
    let verified = verify(&log, records).await?;
    rounds.print("JetStream", "drain: raw ordered push consumer", &verified, records);
    Ok(())
}

async fn drain(client: &async_nats::Client, records: u64) -> Result<Duration> {
    let stream = jetstream::new(client.clone()).get_stream("EVENTS").await?;
    let began = Instant::now();
    let config = OrderedConfig { deliver_subject: client.new_inbox(), ..OrderedConfig::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    for _ in 0..records {
        messages.next().await.context("the consumer ended early")??;
    }
    Ok(began.elapsed())
}
