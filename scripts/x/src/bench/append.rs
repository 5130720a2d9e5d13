//! Appending: each store beside the raw tool below it, which writes the same bytes and answers when they are as durable.
//!
//! The store's time begins with an unsigned draft; the raw side gets its records ready made. So a ratio holds all that the log adds:
//! signing, expected positions, the index, check sums, telling who asked.

mod jetstream;
mod sled;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use omnirun_events::{Actor, Append};
use tokio::task::JoinSet;

use super::Store;
use super::history::{Chain, Keys, sandbox_subject, started};
use super::numbers::{micros, percentile, print_table, rate};

/// Appends one after the other on each side, in turns of [`TURN`], so that whatever else the disk does meets both.
const SEQUENTIAL: usize = 3000;
const TURN: usize = 100;
/// Writers at once, each waiting for its own append, and how many each makes.
const WRITERS: usize = 100;
const EACH: usize = 60;
/// How often the writers at once are measured; the median round counts.
const ROUNDS: usize = 5;

/// Options of append
#[derive(Args, Default)]
pub struct Options {
    /// This store alone
    #[arg(long)]
    store: Option<Store>,
}

/// Measures the stores and prints their tables.
pub async fn run(options: &Options) -> Result<()> {
    println!("\nsigning alone: {} us p50 of a SandboxStarted", micros(signing()?));
    if Store::Sled.is_wanted(options.store) {
        sled::run().await?;
    }
    if Store::Jetstream.is_wanted(options.store) {
        jetstream::run().await?;
    }
    Ok(())
}

/// What of a sequential append is signing.
fn signing() -> Result<Duration> {
    let (keys, mut chain) = (Keys::fixed(), Chain::new(sandbox_subject(0, 0)));
    let mut times = Vec::new();
    for _ in 0..2000 {
        let began = Instant::now();
        chain.sign(&keys.worker, Actor::Host(keys.host), vec![started()])?;
        times.push(began.elapsed());
    }
    Ok(percentile(&mut times, 50))
}

/// Appends `count` records to one subject; how long each took, signing included.
async fn write(store: &dyn Append, keys: &Keys, chain: &mut Chain, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(chain.append(store, &keys.worker, Actor::Host(keys.host), vec![started()]).await?);
    }
    Ok(times)
}

/// Writers at once, each a task of its own as requests are; how many appends a second they made together.
async fn write_many(store: Arc<dyn Append>, round: usize) -> Result<f64> {
    let mut writers = JoinSet::new();
    let began = Instant::now();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let (keys, kind) = (Keys::fixed(), sandbox_subject(1 + round as u64, writer as u64));
            write(&*store, &keys, &mut Chain::new(kind), EACH).await
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(rate((WRITERS * EACH) as u64, began.elapsed()))
}

/// Records of a subject, signed beforehand, for the raw side.
fn ready_made(writer: u64, count: usize) -> Result<Vec<omnirun_events::Entry>> {
    let (keys, mut chain) = (Keys::fixed(), Chain::new(sandbox_subject(9, writer)));
    let made = (0..count).map(|_| {
        let (signed, commit) = chain.sign(&keys.worker, Actor::Host(keys.host), vec![started()])?;
        Ok(chain.entry(&signed, commit))
    });
    made.collect()
}

/// Latencies of one writer on both sides.
fn print_sequential(name: &str, raw: &mut [Duration], ours: &mut [Duration], syncs: Option<(u64, u64)>) {
    let row = |name: &str, times: &mut [Duration], syncs: Option<u64>| {
        let [p50, p95, p99] = [50, 95, 99].map(|percent| micros(percentile(times, percent)));
        vec![name.to_owned(), p50, p95, p99, syncs.map_or("?".to_owned(), |syncs| syncs.to_string())]
    };
    let ratio = percentile(ours, 50).as_secs_f64() / percentile(raw, 50).as_secs_f64();
    let rows = [
        row(&format!("raw {name}"), raw, syncs.map(|syncs| syncs.0)),
        row("log, signing included", ours, syncs.map(|syncs| syncs.1)),
    ];
    let title = format!("append on {name}: one writer, {SEQUENTIAL} records each, microseconds");
    print_table(&title, &["", "p50", "p95", "p99", "fdatasyncs"], &rows);
    println!("  ratio of p50 {ratio:.2} (goal: at most 1.3)");
}

/// Rates of many writers: the median of the rounds of each side, by the name of the side.
fn print_many(name: &str, raw: &str, rounds: &[(f64, f64)], syncs: Option<(u64, u64)>) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let shown = |syncs: Option<u64>| syncs.map_or("?".to_owned(), |syncs| syncs.to_string());
    let row = |name: &str, rates: Vec<f64>, syncs| {
        vec![name.to_owned(), format!("{:.0}", median(rates)), shown(syncs)]
    };
    let rows = [
        row(raw, rounds.iter().map(|round| round.0).collect(), syncs.map(|syncs| syncs.0)),
        row(
            "log, signing included",
            rounds.iter().map(|round| round.1).collect(),
            syncs.map(|syncs| syncs.1),
        ),
    ];
    let appends = WRITERS * EACH;
    let title =
        format!("append on {name}: {WRITERS} writers at once, {appends} records a round, median of {ROUNDS}");
    print_table(&title, &["", "records/s", "fdatasyncs, all rounds"], &rows);
    let ratio = median(rounds.iter().map(|round| round.1 / round.0).collect());
    println!("  ratio {ratio:.1} (goal: at least 3)");
}
