//! What our log costs on top of sled: `cargo run --release -p omnirun-sled --example append_ratio [directory]`.
//!
//! Both sides write the same bytes to the same disk. Raw sled answers after insert, flush and fdatasync; that is the least that a durable
//! append can cost on it. Sequential appends should take at most 1.3 times as long (they also keep an index, check sums and a head), a hundred
//! writers should get at least 3 times as much done as one raw writer, since they share their syncs.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use omnirun_events::log::{Append, Batch, Entry};
use omnirun_events::{AccountId, CommitId, Log, SandboxId, Sequence, Subject, SubjectKind};
use omnirun_sled::{Options, SledLog};

/// Sequential appends on each side, in turns of [`TURN`].
const SEQUENTIAL: usize = 4000;
const TURN: usize = 200;
const WRITERS: usize = 100;
const EACH: usize = 300;
/// Bytes of a record with a typical payload and its signature.
const RECORD_BYTES: usize = 512;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let here = std::env::args().nth(1).map(Into::into).unwrap_or_else(std::env::temp_dir);
    let raw_dir = tempfile::tempdir_in(&here)?;
    let log_dir = tempfile::tempdir_in(&here)?;
    let mut raw = Raw::open(raw_dir.path())?;
    let log = SledLog::open(log_dir.path(), Options::default())?;

    let mut raw_times = Vec::new();
    let mut log_times = Vec::new();
    let mut last = Sequence::NONE;
    // In turns, so that whatever else the disk does meets both.
    for turn in 0..SEQUENTIAL / TURN {
        for n in 0..TURN {
            raw_times.push(raw.append(turn * TURN + n)?);
        }
        for n in 0..TURN {
            let started = Instant::now();
            last = log.append_all(Batch::one(entry(0, turn * TURN + n, last))).await?[0];
            log_times.push(started.elapsed());
        }
    }
    let (raw_p50, log_p50) = (percentile(&mut raw_times, 50), percentile(&mut log_times, 50));
    let (raw_p99, log_p99) = (percentile(&mut raw_times, 99), percentile(&mut log_times, 99));
    println!("one writer, {SEQUENTIAL} appends of {RECORD_BYTES} bytes");
    println!("  raw sled  p50 {raw_p50:?}  p99 {raw_p99:?}  fdatasyncs {}", raw.syncs);
    println!("  SledLog   p50 {log_p50:?}  p99 {log_p99:?}  fdatasyncs {:?}", log.sync_counts(Log::Events));
    println!("  ratio p50 {:.2} (goal at most 1.3)", log_p50.as_secs_f64() / raw_p50.as_secs_f64());

    let before = log.sync_counts(Log::Events).data;
    let started = Instant::now();
    join_all((1..=WRITERS).map(|writer| write(&log, writer))).await;
    let rate = (WRITERS * EACH) as f64 / started.elapsed().as_secs_f64();
    let raw_rate = raw_times.len() as f64 / raw_times.iter().sum::<Duration>().as_secs_f64();
    let syncs = log.sync_counts(Log::Events).data - before;
    println!("{WRITERS} writers, {} appends", WRITERS * EACH);
    println!("  SledLog   {rate:.0}/s  fdatasyncs {syncs}  one raw writer {raw_rate:.0}/s");
    println!("  ratio {:.1} (goal at least 3)", rate / raw_rate);
    Ok(())
}

async fn write(log: &SledLog, writer: usize) {
    let mut last = Sequence::NONE;
    for n in 0..EACH {
        let answer = log.append_all(Batch::one(entry(writer, n, last))).await;
        last = answer.expect("the subject is this writer's own")[0];
    }
}

/// sled as it is, with the sync that it leaves out.
struct Raw {
    tree: sled::Db,
    file: File,
    syncs: u64,
}

impl Raw {
    fn open(dir: &Path) -> Result<Self, Failure> {
        let config = sled::Config::new().path(dir).flush_every_ms(None);
        let tree = config.mode(sled::Mode::HighThroughput).open()?;
        Ok(Self { tree, file: File::options().write(true).open(dir.join("db"))?, syncs: 0 })
    }

    fn append(&mut self, n: usize) -> Result<Duration, Failure> {
        let value = record(0, n);
        let started = Instant::now();
        self.tree.insert((n as u64).to_be_bytes(), value)?;
        self.tree.flush()?;
        self.file.sync_data()?;
        self.syncs += 1;
        Ok(started.elapsed())
    }
}

fn record(writer: usize, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&(writer as u64).to_le_bytes());
    bytes[8..16].copy_from_slice(&(n as u64).to_le_bytes());
    bytes
}

fn entry(writer: usize, n: usize, expected: Sequence) -> Entry {
    let account = AccountId::from_bytes([7; 16]);
    let sandbox = SandboxId::derive(&(writer as u64).to_le_bytes(), "writer");
    let subject = Subject::from(SubjectKind::Sandbox(account, sandbox));
    let commit = CommitId::derive(&(n as u64).to_le_bytes(), &writer.to_string());
    Entry { subject, expected, commit, record: record(writer, n).into() }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}
