//! Pausing and resuming a tenant's guest.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::owner::{self, Owner};

/// Each of a guest's three threads is counted in steps of 10 ms, and stops a moment after it was counted.
const COUNTED_LATE_MAX: u64 = 30;
/// How long it is paused: far longer than what is counted late.
const PAUSE_MS: u64 = 400;
/// What the guest's kernel keeps time by, and what else it could.
const CLOCK_SOURCES: &str = "/sys/devices/system/clocksource/clocksource0";
/// Pauses of a guest whose clocks are looked at, in milliseconds: some shorter than the second within which KVM keeps counters in
/// step, and one longer.
const STILL_MS: [u64; 4] = [800, 800, 800, 5000];
/// How far the clocks of a guest and of the lab may be apart: one is set late, and neither runs quite right.
const APART_MAX: Duration = Duration::from_millis(1500);

/// Ten times, with data in memory and a running program that must go on.
pub fn ten_times() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("pause", |spec| spec.vcpus.0 = 2).await?;
        owner.claim("sandbox").await?;
        let sum = owner.run("head -c 8388608 /dev/urandom > /tmp/data; sha256sum < /tmp/data").await?;
        owner.run("(while :; do echo . >> /tmp/ticks; done) >/dev/null 2>&1 &").await?;
        let mut ticks = 0_u64;
        for round in 0..10 {
            owner.ask::<Value>("POST", "/owner/pause", &Value::Null).await?;
            let before = owner.status().await?.usage;
            let mut after = before;
            while after.paused_ms.0 < before.paused_ms.0 + PAUSE_MS {
                after = owner.status().await?.usage;
            }
            ensure!(after.wall_ms == before.wall_ms, "round {round}: a paused guest's running time grew");
            let used = after.vcpu_ms.0 - before.vcpu_ms.0;
            ensure!(used <= COUNTED_LATE_MAX, "round {round}: a paused guest used {used} ms");
            owner.ask::<Value>("POST", "/owner/resume", &Value::Null).await?;
            ensure!(owner.run("sha256sum < /tmp/data").await? == sum, "round {round}: the data changed");
            let more = format!("until [ $(wc -l < /tmp/ticks) -gt {ticks} ]; do :; done; wc -l < /tmp/ticks");
            let said = owner.run(&format!("timeout 60 sh -c '{more}'")).await;
            ticks =
                said.with_context(|| format!("round {round}: the program does not go on"))?.trim().parse()?;
        }
        owner.kill().await?;
        Ok(format!("10 of 10, {ticks} ticks"))
    })
}

/// Whatever its kernel keeps time by, a pause is none for its programs, on all its processors; but their wall clock is right.
pub fn time_stands_still() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("still", |spec| spec.vcpus.0 = 2).await?;
        owner.claim("sandbox").await?;
        let chosen = owner.run(&format!("cat {CLOCK_SOURCES}/current_clocksource")).await?;
        let sources = owner.run(&format!("cat {CLOCK_SOURCES}/available_clocksource")).await?;
        ensure!(sources.contains("kvm-clock") && sources.contains("tsc"), "it could keep time by {sources}");
        for source in sources.split_whitespace() {
            let choose =
                format!("cd {CLOCK_SOURCES}; echo {source} > current_clocksource; cat current_clocksource");
            ensure!(owner.run_as("root", &choose).await?.trim() == source, "it does not take {source}");
            stand_still(&mut owner).await.with_context(|| format!("by {source}"))?;
        }
        owner.kill().await?;
        Ok(format!("by {}, where {} is chosen", sources.trim(), chosen.trim()))
    })
}

/// Sees that by as much as the guest was paused, less time went by inside than outside.
async fn stand_still(owner: &mut Owner) -> Result<()> {
    let (since, mut stood) = (Instant::now(), Duration::ZERO);
    let (first, mut last) = uptimes(owner).await?;
    for pause in STILL_MS.map(Duration::from_millis) {
        owner.ask::<Value>("POST", "/owner/pause", &Value::Null).await?;
        let paused = Instant::now();
        while paused.elapsed() < pause {
            owner.status().await?;
        }
        stood += paused.elapsed();
        owner.ask::<Value>("POST", "/owner/resume", &Value::Null).await?;
        let (next, later) = uptimes(owner).await?;
        ensure!(next >= last, "its time went back from {last:?} to {next:?}");
        last = later;
    }
    let less = since.elapsed().saturating_sub(last - first);
    ensure!(less + APART_MAX > stood, "it stood still for {stood:?}, and counts all but {less:?} of that");
    check_wall_clock(owner).await
}

/// By its processors in turn, none of which may be behind the one before; answers with the first and the last.
async fn uptimes(owner: &mut Owner) -> Result<(Duration, Duration)> {
    let said = owner.run("for c in 0 1 0 1; do taskset -c $c cut -d ' ' -f 1 /proc/uptime; done").await?;
    let readings = said.lines().map(|line| Ok(Duration::from_secs_f64(line.parse()?)));
    let readings = readings.collect::<Result<Vec<_>>>()?;
    ensure!(readings.len() == 4 && readings.is_sorted(), "its processors' times differ: {readings:?}");
    Ok((readings[0], readings[3]))
}

async fn check_wall_clock(owner: &mut Owner) -> Result<()> {
    let outside = || SystemTime::now().duration_since(UNIX_EPOCH);
    let before = outside()?;
    let inside = Duration::from_millis(owner.run("date +%s%3N").await?.trim().parse()?);
    let after = outside()?;
    ensure!(
        before < inside + APART_MAX && inside < after + APART_MAX,
        "its wall clock is {inside:?} between {before:?} and {after:?}"
    );
    Ok(())
}
