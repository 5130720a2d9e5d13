//! Appending to the embedded log, beside sled as it is with the sync that it leaves out: insert, flush, fdatasync.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use omnirun_events::{Entry, Log};
use omnirun_sled::{Options, SledLog};

use super::{
    EACH, ROUNDS, SEQUENTIAL, TURN, WRITERS, print_many, print_sequential, ready_made, write, write_many,
};
use crate::bench::history::{Chain, Keys, sandbox_subject};
use crate::bench::numbers::rate;

pub async fn run() -> Result<()> {
    let (raw_dir, log_dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let raw = Arc::new(Raw::open(raw_dir.path())?);
    let log = Arc::new(SledLog::open(log_dir.path(), Options::default())?);
    let keys = Keys::fixed();

    let (mut raw_times, mut log_times) = (Vec::new(), Vec::new());
    let mut chain = Chain::new(sandbox_subject(0, 0));
    let records = ready_made(0, SEQUENTIAL)?;
    for turn in records.chunks(TURN) {
        for record in turn {
            raw_times.push(raw.append(record)?);
        }
        log_times.extend(write(&*log, &keys, &mut chain, turn.len()).await?);
    }
    let syncs = (raw.syncs(), log.sync_counts(Log::Events).data);
    print_sequential("sled", &mut raw_times, &mut log_times, Some(syncs));

    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        rounds.push((raw_writers(&raw, round)?, write_many(log.clone(), round).await?));
    }
    let many = (raw.syncs() - syncs.0, log.sync_counts(Log::Events).data - syncs.1);
    print_many("sled", "raw sled, a thread each", &rounds, Some(many));
    Ok(())
}

fn raw_writers(raw: &Arc<Raw>, round: usize) -> Result<f64> {
    let number = |writer: usize| (1 + round * WRITERS + writer) as u64;
    let ready: Result<Vec<_>> = (0..WRITERS).map(|writer| ready_made(number(writer), EACH)).collect();
    let ready = ready?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let write = |records: Vec<Entry>| records.iter().try_for_each(|record| raw.append(record).map(drop));
        let threads: Vec<_> = ready.into_iter().map(|records| scope.spawn(move || write(records))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a writer does not panic"))
    })?;
    Ok(rate((WRITERS * EACH) as u64, began.elapsed()))
}

/// sled as it is, and its file.
struct Raw {
    database: sled::Db,
    file: File,
    appended: AtomicU64,
    synced: AtomicU64,
}

impl Raw {
    fn open(directory: &Path) -> Result<Self> {
        let config = sled::Config::new().path(directory).flush_every_ms(None);
        let database = config.mode(sled::Mode::HighThroughput).open()?;
        let file = File::options().write(true).open(directory.join("db"))?;
        Ok(Self { database, file, appended: AtomicU64::new(0), synced: AtomicU64::new(0) })
    }

    /// Writes the record down and waits for the disk; answers how long that took.
    fn append(&self, record: &Entry) -> Result<Duration> {
        let began = Instant::now();
        let key = self.appended.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.database.insert(key, record.record.as_ref())?;
        self.database.flush()?;
        self.file.sync_data()?;
        self.synced.fetch_add(1, Ordering::Relaxed);
        Ok(began.elapsed())
    }

    fn syncs(&self) -> u64 {
        self.synced.load(Ordering::Relaxed)
    }
}
