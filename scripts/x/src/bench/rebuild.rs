//! Rebuilding the directory from the log and verifying the log, beside a drain: the same records read from the same store by the raw tool,
//! in order, and dropped.

mod jetstream;
mod sled;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use omnirun_events::keyring::KeyRing;
use omnirun_events::log::{PAGE_RECORDS_MAX, Tail};
use omnirun_events::signing::PublicKey;
use omnirun_events::verify::{Depth, Verdict, Verifier};
use omnirun_events::{Filter, Log, Read, Sequence, codec};
use omnirun_projections::Directory;
use omnirun_runner::{Source, rebuild};

use super::Store;
use super::history::Keys;
use super::numbers::{machine, percentile, print_table, rate};

/// How often each side is measured, in turns; the median counts.
const ROUNDS: usize = 3;

/// Options of the rebuild
#[derive(Args)]
pub struct Options {
    /// Records in the log; making a million of them takes a minute or two for each store
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// This store alone
    #[arg(long)]
    store: Option<Store>,
}

impl Default for Options {
    fn default() -> Self {
        Self { records: 1_000_000, store: None }
    }
}

/// Measures the stores and prints their tables.
pub async fn run(options: &Options) -> Result<()> {
    ensure!(options.records > 1, "--records has to be above 1");
    if Store::Sled.is_wanted(options.store) {
        sled::run(options.records).await?;
    }
    if Store::Jetstream.is_wanted(options.store) {
        jetstream::run(options.records).await?;
    }
    Ok(())
}

/// What was measured over one store.
#[derive(Default)]
struct Rounds {
    drains: Vec<Duration>,
    reads: Vec<Duration>,
    rebuilds: Vec<Duration>,
}

impl Rounds {
    /// Adds one round of our side.
    async fn add(&mut self, drained: Duration, reader: &dyn Read, records: u64) -> Result<()> {
        self.drains.push(drained);
        self.reads.push(read(reader, records).await?);
        self.rebuilds.push(rebuilt(reader, records).await?);
        Ok(())
    }

    fn print(mut self, store: &str, drain: &str, verified: &Verified, records: u64) {
        let drained = percentile(&mut self.drains, 50);
        let row = |name: &str, took: Duration| {
            let ratio = format!("{:.2}", drained.as_secs_f64() / took.as_secs_f64());
            vec![name.to_owned(), format!("{:.0}", rate(records, took)), ratio]
        };
        let rows = [
            row(drain, drained),
            row("the store's own cursor, nothing checked", percentile(&mut self.reads, 50)),
            row("rebuild of the directory, chains checked (goal: 0.5)", percentile(&mut self.rebuilds, 50)),
            row("verify with signatures", verified.took),
        ];
        let title = format!("{records} records on {store}, median of {ROUNDS} rounds (verify: one)");
        print_table(&title, &["", "records/s", "ratio to drain"], &rows);
        let each = verified.took.as_secs_f64() * 1e6 / records as f64;
        println!(
            "  verify costs {each:.1} us a record; one verify_strict alone {:.1} us",
            verified.strict_us
        );
        println!("  {}", machine());
    }
}

/// Our own cursor, to the end.
async fn read(reader: &dyn Read, records: u64) -> Result<Duration> {
    let began = Instant::now();
    let mut cursor = reader.read(Log::Events, Filter::all(), Sequence::NONE).await?;
    let mut found = 0;
    loop {
        let page = cursor.next(PAGE_RECORDS_MAX, Tail::Return).await?;
        if page.records.is_empty() {
            break;
        }
        found += page.records.len() as u64;
    }
    ensure!(found == records, "the cursor found {found} of {records} records");
    Ok(began.elapsed())
}

async fn rebuilt(reader: &dyn Read, records: u64) -> Result<Duration> {
    let began = Instant::now();
    let root = Keys::fixed().root();
    let made = rebuild::<Directory>(reader, &root, Source::Events, &BTreeMap::new(), Depth::Chains).await?;
    let took = began.elapsed();
    ensure!(made.records == records, "the rebuild read {} of {records} records", made.records);
    Ok(took)
}

struct Verified {
    took: Duration,
    /// Microseconds of one check of one signature.
    strict_us: f64,
}

/// Chains, signatures and roles of every record, as `omnirun ops verify` checks them.
async fn verify(reader: &dyn Read, records: u64) -> Result<Verified> {
    let began = Instant::now();
    let mut verifier = Verifier::new(KeyRing::rooted_in(&Keys::fixed().root())?);
    let mut cursor = reader.read(Log::Events, Filter::all(), Sequence::NONE).await?;
    let (mut believed, mut sample) = (0, None);
    loop {
        let page = cursor.next(PAGE_RECORDS_MAX, Tail::Return).await?;
        let Some(last) = page.records.last() else { break };
        sample = Some(last.clone());
        for stored in &page.records {
            if let Verdict::Believed(_) = verifier.check(Log::Events, stored, Depth::Signatures)? {
                believed += 1;
            }
        }
    }
    ensure!(believed == records, "{believed} of {records} records are believed");
    let took = began.elapsed();
    let record = codec::decode(&sample.context("the log is empty")?.record)?;
    let key = verifier.ring().get(record.header.key).context("its key is enrolled")?.public;
    Ok(Verified { took, strict_us: strict_us(&key, &record)? })
}

fn strict_us(key: &PublicKey, record: &omnirun_events::Record) -> Result<f64> {
    const CHECKS: u32 = 5000;
    let began = Instant::now();
    for _ in 0..CHECKS {
        key.verify(record)?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(CHECKS))
}
