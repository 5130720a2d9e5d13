//! From asking for a sandbox to the first output of `echo` in it, over HTTP with the real program: booted, restored from the template's
//! snapshot on demand, and from the warm pool. One after the other, and ten at once.
//!
//! Which of the three a run is follows from the shape and from `--pool`: the worker makes a snapshot and a pool of the default shape alone, so
//! guests of another one are booted. The program's own metrics must confirm that none comes from elsewhere.

mod images;
mod shares;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::http::Client;
use omnirun_test_support::world::{self, World};
use serde_json::json;

use super::numbers::{machine, millis, percentile, print_table};
use images::Images;
use shares::Metrics;

/// Sandboxes that are asked for at once.
const AT_ONCE: usize = 10;
/// How long a pool may take to fill, and a snapshot to be made.
const READY: Duration = Duration::from_secs(180);

/// Options of create
#[derive(Args)]
pub struct Options {
    /// Sandboxes of each kind, one after the other
    #[arg(long, default_value_t = 50)]
    runs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { runs: 50 }
    }
}

/// Where guests come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Boot,
    Restore,
    Pool,
}

impl Source {
    const fn name(self) -> &'static str {
        match self {
            Self::Boot => "cold boot",
            Self::Restore => "restored on demand",
            Self::Pool => "warm pool",
        }
    }

    /// Memory of a sandbox: for guests that are to be booted, a little more than the default, of which there is a snapshot.
    const fn memory_mib(self) -> u32 {
        match self {
            Self::Boot => 516,
            Self::Restore | Self::Pool => 512,
        }
    }

    /// The value of the label `from` in the worker's metrics.
    const fn label(self) -> &'static str {
        match self {
            Self::Boot | Self::Restore => "demand",
            Self::Pool => "pool",
        }
    }
}

/// Measures all three and prints the tables.
pub async fn run(options: &Options) -> Result<()> {
    ensure!(options.runs > 0, "--runs has to be above 0");
    let images = Images::copy()?;
    let mut rows = Vec::new();
    for source in [Source::Boot, Source::Restore, Source::Pool] {
        let one_by_one = sequential(&images, source, options.runs).await?;
        rows.push(one_by_one);
        rows.push(at_once(&images, source).await?);
    }
    let columns = ["create → first echo, ms", "runs", "p50", "p95", "p99", "failed"];
    print_table("from asking for a sandbox to its first output, over HTTP", &columns, &rows);
    println!("  {}", machine());
    Ok(())
}

/// Starts the program so that guests come from `source`, with `pool` guests in the pool where they come from there.
async fn start(images: &Images, source: Source, pool: usize) -> Result<(World, Client)> {
    let pool = if source == Source::Pool { pool } else { 0 };
    let store = images.path().to_string_lossy().into_owned();
    let mut world = World::start(&["--images", &store, "--pool", &pool.to_string()]).await?;
    let (user, _) = world.user("bench@example.org").await?;
    if source != Source::Boot {
        // The first guest is booted where there is no snapshot yet, and makes the worker make one.
        let sandbox = create_and_echo(&user, source).await?.sandbox;
        world::destroy(&user, &sandbox).await?;
        wait_for(READY, async || Ok(images.has_snapshot().then_some(()))).await.context("no snapshot")?;
    }
    Ok((world, user))
}

/// Waits until as many guests are ready in the pool as are wanted.
async fn pool_is_full(world: &World, wanted: usize) -> Result<()> {
    let client = world.up.client();
    let full = wait_for(READY, async || {
        let ready = Metrics::read(&client).await?.value("omnirun_worker_pool_ready", &["python-3.11"]);
        Ok((ready >= wanted as f64).then_some(()))
    });
    full.await.context("the pool was not filled")
}

/// What one sandbox took.
struct Run {
    sandbox: String,
    created: Duration,
    echoed: Duration,
}

async fn create_and_echo(user: &Client, source: Source) -> Result<Run> {
    let began = Instant::now();
    let wish = json!({ "template": "python-3.11", "timeout": 120, "memoryMB": source.memory_mib() });
    let sandbox = world::sandbox(user, wish).await?;
    let created = began.elapsed();
    ensure!(world::run(user, &sandbox, "echo hello").await? == "hello", "the guest said something else");
    Ok(Run { sandbox, created, echoed: began.elapsed() - created })
}

/// One sandbox after the other, each destroyed before the next; for the pool, each only when the pool is full again.
async fn sequential(images: &Images, source: Source, runs: usize) -> Result<Vec<String>> {
    const POOL: usize = 2;
    let (world, user) = start(images, source, POOL).await?;
    println!("\n{}: {runs} one after the other", source.name());
    let before = Metrics::read(&world.up.client()).await?;
    let mut done = Vec::new();
    for number in 1..=runs {
        if source == Source::Pool {
            pool_is_full(&world, POOL).await?;
        }
        let run = create_and_echo(&user, source).await?;
        world::destroy(&user, &run.sandbox).await?;
        done.push(run);
        if number % 10 == 0 {
            println!("    {number}");
        }
    }
    let after = Metrics::read(&world.up.client()).await?;
    let used = after.count("omnirun_worker_start_seconds", &[source.label()])
        - before.count("omnirun_worker_start_seconds", &[source.label()]);
    ensure!(used == runs as f64, "{used} of {runs} guests are of the kind that is measured");
    if source == Source::Pool {
        shares::print(&before, &after, &done);
    }
    world.close().await?;
    Ok(row(source.name(), done.iter().map(|run| run.created + run.echoed).collect(), 0))
}

/// Several sandboxes at once.
async fn at_once(images: &Images, source: Source) -> Result<Vec<String>> {
    let (world, user) = start(images, source, AT_ONCE).await?;
    if source == Source::Pool {
        pool_is_full(&world, AT_ONCE).await?;
    }
    println!("{}: {AT_ONCE} at once", source.name());
    let runs = futures_util::future::join_all((0..AT_ONCE).map(|_| create_and_echo(&user, source))).await;
    let mut times = Vec::new();
    for run in &runs {
        match run {
            Ok(run) => {
                times.push(run.created + run.echoed);
                world::destroy(&user, &run.sandbox).await?;
            }
            Err(error) => println!("    failed: {error:#}"),
        }
    }
    world.close().await?;
    let failed = AT_ONCE - times.len();
    Ok(row(&format!("{}, {AT_ONCE} at once", source.name()), times, failed))
}

fn row(name: &str, mut times: Vec<Duration>, failed: usize) -> Vec<String> {
    let [p50, p95, p99] = [50, 95, 99].map(|percent| millis(percentile(&mut times, percent)));
    vec![name.to_owned(), times.len().to_string(), p50, p95, p99, failed.to_string()]
}
