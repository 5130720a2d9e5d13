//! What the guarantees of an append cost: this store beside plain publishes of the same bytes, with the same expectations, to the
//! same server, which syncs before it answers.
//!
//! ```text
//! cargo run --release -p omnirun-jetstream --example append_ratio
//! ```
//!
//! Prints two ratios: latency of one writer (goal: at most 1.3) and throughput of 100 writers (goal: at least 3). Rounds
//! alternate between the two and the median counts, because single rounds differ with whatever else the machine does.

use std::time::Instant;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures_util::future::join_all;
use omnirun_events::*;
use omnirun_jetstream::connect::connect;
use omnirun_jetstream::{JetStreamLog, Options, Replicas, apply_streams};
use omnirun_test_support::NatsServer;

const ROUNDS: usize = 9;
const ONE_BY_ONE: usize = 400;
const WRITERS: usize = 100;
const EACH: usize = 20;
/// A small record: header, one event and signature.
const BYTES: usize = 512;

/// The same job, done in two ways.
#[derive(Clone, Copy)]
enum Way {
    Store,
    Plain,
}

struct Bench {
    log: JetStreamLog,
    plain: Context,
    record: Bytes,
}

#[tokio::main]
async fn main() {
    let server = NatsServer::start();
    let options = Options::new(server.url());
    let client = connect(&options).await.expect("the server is up");
    apply_streams(&client, Replicas(1)).await.expect("a new server takes every stream");
    let log = JetStreamLog::connect(&options).await.expect("the streams are there");
    // A connection of its own, as each half would have.
    let plain = jetstream::new(connect(&options).await.expect("the server is up"));
    let bench = Bench { log, plain, record: Bytes::from(vec![7; BYTES]) };
    let (mut latencies, mut rates) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let latency = (bench.one_writer(Way::Store, round).await, bench.one_writer(Way::Plain, round).await);
        let rate = (bench.many_writers(Way::Store, round).await, bench.many_writers(Way::Plain, round).await);
        // The first round warms up.
        if round > 0 {
            latencies.push(latency);
            rates.push(rate);
        }
    }
    report("latency of one writer, us per append", "at most 1.3", &latencies);
    report("100 writers, appends per second", "at least 3", &rates);
}

impl Bench {
    /// Microseconds an append, one after the other.
    async fn one_writer(&self, way: Way, round: usize) -> f64 {
        let start = Instant::now();
        self.write(way, &format!("one {round}"), ONE_BY_ONE).await;
        start.elapsed().as_secs_f64() * 1e6 / ONE_BY_ONE as f64
    }

    /// Appends a second, by writers that each wait for their own.
    async fn many_writers(&self, way: Way, round: usize) -> f64 {
        let start = Instant::now();
        let names: Vec<_> = (0..WRITERS).map(|writer| format!("many {round} {writer}")).collect();
        join_all(names.iter().map(|name| self.write(way, name, EACH))).await;
        (WRITERS * EACH) as f64 / start.elapsed().as_secs_f64()
    }

    /// Appends `count` records to the subject that the way and the name make.
    async fn write(&self, way: Way, name: &str, count: usize) {
        let label = match way {
            Way::Store => "store",
            Way::Plain => "plain",
        };
        let sandbox = SandboxId::derive(name.as_bytes(), label);
        let subject = Subject::from(SubjectKind::Sandbox(AccountId::from_bytes([1; 16]), sandbox));
        let mut last = Sequence::NONE;
        for i in 0..count {
            let commit = CommitId::derive(format!("{label} {name} {i}").as_bytes(), "bench");
            last = match way {
                Way::Store => self.append(&subject, last, commit).await,
                Way::Plain => self.publish(&subject, last, commit).await,
            };
        }
    }

    async fn append(&self, subject: &Subject, expected: Sequence, commit: CommitId) -> Sequence {
        let entry = Entry { subject: subject.clone(), expected, commit, record: self.record.clone() };
        self.log.append_all(Batch::one(entry)).await.expect("nobody else writes here")[0]
    }

    async fn publish(&self, subject: &Subject, expected: Sequence, commit: CommitId) -> Sequence {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        headers.insert(NATS_MESSAGE_ID, commit.to_string());
        let message = PublishMessage::build().payload(self.record.clone()).headers(headers);
        let ack = self.plain.send_publish(subject.as_str().to_owned(), message).await;
        Sequence(ack.expect("connected").await.expect("nobody else writes here").sequence)
    }
}

/// The median of the rounds, each being (store, plain).
fn report(what: &str, goal: &str, rounds: &[(f64, f64)]) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let store = median(rounds.iter().map(|round| round.0).collect());
    let plain = median(rounds.iter().map(|round| round.1).collect());
    let ratio = median(rounds.iter().map(|round| round.0 / round.1).collect());
    println!("{what}: store {store:.0}, plain publish {plain:.0}, ratio {ratio:.2} (goal: {goal})");
}
