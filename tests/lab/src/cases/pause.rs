//! Pausing and resuming a tenant's guest.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::owner::{self, Owner};

/// Each of a guest's three threads is counted in steps of 10 ms, and stops a moment after it was counted.
const COUNTED_LATE_MAX: u64 = 30;
/// How long it is paused: far longer than what is counted late.
const PAUSE_MS: u64 = 400;

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
