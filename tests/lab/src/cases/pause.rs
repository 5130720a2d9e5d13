//! Pausing and resuming a tenant's guest.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::owner::{self, Owner};

/// Each of a guest's three threads is counted in steps of 10 ms, and stops a moment after it was counted.
const COUNTED_LATE_MAX: u64 = 30;

/// Ten times, with data in memory and a running program that must go on.
pub fn ten_times() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("pause", |spec| spec.vcpus.0 = 2).await?;
        owner.claim("sandbox").await?;
        let sum = owner.run("head -c 8388608 /dev/urandom > /tmp/data; sha256sum < /tmp/data").await?;
        owner.run("(while :; do echo . >> /tmp/ticks; done) >/dev/null 2>&1 &").await?;
        let mut ticks = 0;
        for round in 0..10 {
            owner.ask::<Value>("POST", "/owner/pause", &Value::Null).await?;
            let before = owner.status().await?.usage.vcpu_ms;
            tokio::time::sleep(Duration::from_millis(400)).await;
            let after = owner.status().await?.usage.vcpu_ms;
            let used = after.0 - before.0;
            ensure!(used <= COUNTED_LATE_MAX, "round {round}: a paused guest used {used} ms");
            owner.ask::<Value>("POST", "/owner/resume", &Value::Null).await?;
            ensure!(owner.run("sha256sum < /tmp/data").await? == sum, "round {round}: the data changed");
            let now: u64 = owner.run("sleep 0.2; wc -l < /tmp/ticks").await?.trim().parse()?;
            ensure!(now > ticks, "round {round}: the program does not go on");
            ticks = now;
        }
        owner.kill().await?;
        Ok(format!("10 of 10, {ticks} ticks"))
    })
}
