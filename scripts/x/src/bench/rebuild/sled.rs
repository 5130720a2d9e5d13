//! The embedded log, beside a scan of all its rows by sled itself.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use omnirun_sled::{Options, SledLog};

use super::{ROUNDS, Rounds, verify};
use crate::bench::history::fill;

/// Of each log's database; the same for both sides.
const CACHE_BYTES: u64 = 128 << 20;
/// How the keys of records begin in the layout of the embedded log; the index beside them is not drained.
const RECORD: &[u8] = b"R";

pub async fn run(records: u64) -> Result<()> {
    let directory = tempfile::tempdir()?;
    println!("\nsled: making {records} signed records");
    let began = Instant::now();
    fill(Arc::new(SledLog::open(directory.path(), Options::default())?), records).await?;
    println!("    made in {:.1} s", began.elapsed().as_secs_f64());

    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        let drained = drain(&directory.path().join("EVENTS"), records)?;
        rounds.add(drained, &SledLog::open(directory.path(), Options::default())?, records).await?;
    }
    let verified = verify(&SledLog::open(directory.path(), Options::default())?, records).await?;
    rounds.print("sled", "drain: raw sled's scan of the rows", &verified, records);
    Ok(())
}

/// Reads every row of a record once; the database is opened before the clock starts, and read once so that both sides find it as warm.
fn drain(directory: &Path, records: u64) -> Result<Duration> {
    let config = sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let database = config.mode(sled::Mode::HighThroughput).open()?;
    scan(&database, records)?;
    scan(&database, records)
}

fn scan(database: &sled::Db, records: u64) -> Result<Duration> {
    let began = Instant::now();
    let (mut rows, mut bytes) = (0, 0);
    for row in database.scan_prefix(RECORD) {
        let (_, value) = row?;
        rows += 1;
        bytes += value.len();
    }
    ensure!(rows == records && bytes > 0, "sled has {rows} rows of {records} records");
    Ok(began.elapsed())
}
