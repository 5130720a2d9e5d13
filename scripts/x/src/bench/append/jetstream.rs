//! Appending to JetStream, beside plain publishes of the same bytes with the same expectations, to the same server, which syncs every
//! message before it answers (`sync_interval: always`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use omnirun_events::{Entry, Sequence};
use omnirun_jetstream::connect::connect;
use omnirun_jetstream::{JetStreamLog, Options, Replicas, apply_streams};
use omnirun_test_support::NatsServer;
use tokio::task::JoinSet;

use super::{
    EACH, ROUNDS, SEQUENTIAL, TURN, WRITERS, print_many, print_sequential, ready_made, write, write_many,
};
use crate::bench::history::{Chain, Keys, sandbox_subject};
use crate::bench::numbers::rate;

pub async fn run() -> Result<()> {
    let server = NatsServer::start();
    let options = Options::new(server.url());
    let client = connect(&options).await?;
    apply_streams(&client, Replicas(1)).await?;
    let log = JetStreamLog::connect(&options).await?;
    // A connection of its own, as each side would have.
    let plain = jetstream::new(connect(&options).await?);
    let keys = Keys::fixed();

    let (mut raw_times, mut log_times) = (Vec::new(), Vec::new());
    let mut chain = Chain::new(sandbox_subject(0, 0));
    let (mut last, records) = (Sequence::NONE, ready_made(0, SEQUENTIAL)?);
    for turn in records.chunks(TURN) {
        for record in turn {
            raw_times.push(publish(&plain, record, &mut last).await?);
        }
        log_times.extend(write(&log, &keys, &mut chain, turn.len()).await?);
    }
    print_sequential("JetStream", &mut raw_times, &mut log_times, None);

    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        rounds.push((raw_writers(&plain, round).await?, write_many(Arc::new(log.clone()), round).await?));
    }
    print_many("JetStream", "raw publishes, a task each", &rounds, None);
    Ok(())
}

async fn raw_writers(plain: &Context, round: usize) -> Result<f64> {
    let number = |writer: usize| (1 + round * WRITERS + writer) as u64;
    let ready: Result<Vec<_>> = (0..WRITERS).map(|writer| ready_made(number(writer), EACH)).collect();
    let (ready, mut writers) = (ready?, JoinSet::new());
    let began = Instant::now();
    for records in ready {
        let plain = plain.clone();
        writers.spawn(async move {
            let mut last = Sequence::NONE;
            for record in &records {
                publish(&plain, record, &mut last).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(rate((WRITERS * EACH) as u64, began.elapsed()))
}

/// Publishes one record after `last` on its subject and waits until it is stored; answers how long that took.
async fn publish(plain: &Context, record: &Entry, last: &mut Sequence) -> Result<Duration> {
    let began = Instant::now();
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
    headers.insert(NATS_MESSAGE_ID, record.commit.to_string());
    let message = PublishMessage::build().payload(record.record.clone()).headers(headers);
    let stored = plain.send_publish(record.subject.as_str().to_owned(), message).await?.await?;
    *last = Sequence(stored.sequence);
    Ok(began.elapsed())
}
