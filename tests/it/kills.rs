//! The main job is killed with -9 after record k and started again, for every k of an undisturbed run: no acknowledged record is lost
//! or doubled, no guest is orphaned, and the job ends well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use omnirun_events::codec;
use omnirun_events::log::{Read as _, Tail};
use omnirun_events::subject::Slot;
use omnirun_events::{Event, Filter, Log, Sequence};
use omnirun_ops::SocketRead;
use omnirun_test_support::demo::{Demo, wait_for};
use omnirun_test_support::report;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::World;
use tokio::task::JoinSet;

/// How long one run of the job may take, a restart and a cold boot on a busy machine included.
const JOB_PATIENCE: Duration = Duration::from_secs(120);

/// Tries of one run: the kill breaks one request, and a request may reach the old server's port once more.
const TRIES_MAX: usize = 5;

/// Every record that was seen: where, and its bytes.
type Seen = Arc<Mutex<BTreeMap<(Log, Sequence), bytes::Bytes>>>;

/// The logs whose records count. The meters of a short run go to the current week's slot and perhaps the next.
fn logs() -> Vec<Log> {
    [Log::Events, Log::Keys].into_iter().chain(Slot::all().map(Log::Usage)).collect()
}

/// Follows every log through the operator's socket and counts; ends when `stop_at` records were seen or the server is gone.
async fn watch(data: &Path, seen: Seen, stop_at: usize) -> Result<usize> {
    let reader = SocketRead::connect(data).await.context("the operator's socket does not answer")?;
    let count = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for log in logs() {
        let (reader, seen, count) = (reader.clone(), seen.clone(), count.clone());
        tasks.spawn(async move {
            let Ok(mut cursor) = reader.read(log, Filter::all(), Sequence::NONE).await else { return };
            while let Ok(page) = cursor.next(1, Tail::Wait).await {
                for stored in page.records {
                    let mut seen = seen.lock().expect("no test holds it and panics");
                    seen.insert((log, stored.sequence), stored.record);
                    let total = count.fetch_add(1, Ordering::SeqCst) + 1;
                    if total >= stop_at {
                        return;
                    }
                }
            }
        });
    }
    let reached =
        async { while count.load(Ordering::SeqCst) < stop_at && tasks.join_next().await.is_some() {} };
    reached.await;
    Ok(count.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_any_record_the_job_ends_well_and_nothing_is_lost() -> Result<()> {
    let total = undisturbed().await.context("the undisturbed run failed")?;
    assert!(total > 10, "the job writes more records than {total}");
    for k in 1..=total {
        killed_after(k).await.with_context(|| format!("killed at {k} of {total}"))?;
        report(&format!("killed at {k} of {total}"));
    }
    Ok(())
}

/// Runs the job once; answers how many records it wrote.
async fn undisturbed() -> Result<usize> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let World { up, smtp, .. } = &mut world;
    let mut demo = Demo::default();
    tokio::time::timeout(JOB_PATIENCE, demo.run(&up.client(), smtp, &mut |_| {})).await??;
    let reader = SocketRead::connect(&world.data()).await.context("the operator's socket does not answer")?;
    let mut total = 0;
    for log in logs() {
        total += usize::try_from(reader.head(log).await?.0)?;
    }
    world.close().await?;
    Ok(total)
}

async fn killed_after(k: usize) -> Result<()> {
    let world = World::start(&["--pool", "0"]).await?;
    let data = world.data();
    let (mut up, mut smtp, directory) = world.into_parts();
    let seen = Seen::default();
    let mut demo = Demo::default();
    let client = up.client();
    {
        // Whichever comes first: the record, and then the kill; or the end of the job, when k counts records of the very end.
        let mut quiet = |_: &str| {};
        let job = demo.run(&client, &mut smtp, &mut quiet);
        let killed = async {
            let count = watch(&data, seen.clone(), k).await?;
            up.kill().await?;
            anyhow::Ok(count)
        };
        let (result, count) = tokio::join!(job, killed);
        ensure!(count? >= k, "the server ended before record {k}");
        // Broken off or done: both are right here.
        drop(result);
    }
    let mut up = up.restart().await?;
    let mut tries = 0;
    while let Err(error) =
        tokio::time::timeout(JOB_PATIENCE, demo.run(&up.client(), &mut smtp, &mut |_| {})).await?
    {
        tries += 1;
        ensure!(tries < TRIES_MAX, "the job does not end well: {error:#}");
    }
    nothing_is_lost(&data, &seen).await?;
    nothing_is_doubled(&data).await?;
    no_guest_is_left(&data).await?;
    let root = data.join("root.pub");
    let (exit, text) = ops(&data, &["verify", "--root-key", &root.to_string_lossy()]).await?;
    ensure!(exit == 0, "verify exits with {exit}: {text}");
    up.kill().await?;
    drop(directory);
    Ok(())
}

/// What somebody has seen is there, byte for byte.
async fn nothing_is_lost(data: &Path, seen: &Seen) -> Result<()> {
    let now = everything(data).await?;
    for (position, record) in seen.lock().expect("no test holds it and panics").iter() {
        ensure!(
            now.get(position) == Some(record),
            "the record at {} {} is gone or changed",
            position.0,
            position.1
        );
    }
    Ok(())
}

/// No commit twice on a subject, and each step of the sandbox's life once.
async fn nothing_is_doubled(data: &Path) -> Result<()> {
    let mut commits = BTreeSet::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for record in everything(data).await?.values() {
        let record = codec::decode(record)?;
        let is_new = commits.insert((record.header.subject.clone(), record.header.commit));
        ensure!(is_new, "a commit is on {} twice", record.header.subject);
        for event in &record.events {
            let name = event.name().0;
            if matches!(event, Event::AccountOpened(_)) || name.starts_with("sandbox.") {
                *counts.entry(name.into_owned()).or_default() += 1;
            }
        }
    }
    for name in
        ["account.opened", "sandbox.requested", "sandbox.claimed", "sandbox.started", "sandbox.stopped"]
    {
        ensure!(counts.get(name) == Some(&1), "{name} is there {:?} times", counts.get(name));
    }
    Ok(())
}

async fn everything(data: &Path) -> Result<BTreeMap<(Log, Sequence), bytes::Bytes>> {
    let reader = SocketRead::connect(data).await.context("the operator's socket does not answer")?;
    let mut all = BTreeMap::new();
    for log in logs() {
        let records = omnirun_events::log::read_to_end(&reader, log, Filter::all(), Sequence::NONE).await?;
        all.extend(records.into_iter().map(|stored| ((log, stored.sequence), stored.record)));
    }
    Ok(all)
}

/// No owner process listens below the data directory any more.
async fn no_guest_is_left(data: &Path) -> Result<()> {
    let data = data.to_string_lossy().into_owned();
    wait_for(Duration::from_secs(30), async || {
        let sockets = std::fs::read_to_string("/proc/net/unix")?;
        Ok((!sockets.lines().any(|line| line.contains(&data) && line.ends_with("owner.sock"))).then_some(()))
    })
    .await
    .context("a guest outlived its sandbox")
}
