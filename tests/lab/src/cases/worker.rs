//! The whole program in the lab: `omnirun up` with our own monitor, used over HTTP as a user does.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::{
    http::Client,
    up::{Up, log_path},
};
use omnirun_vmm_api::owner::{SOCKET, Stage};
use serde_json::json;

use crate::{
    limit,
    owner::{self, Owner, STORE},
};

const EMAIL: &str = "lab@example.org";
/// How long the pool may take to be full: two boots, a snapshot, a restore and a spare.
const POOL_MAX: Duration = Duration::from_secs(200);

/// Sign-in, a sandbox from a boot or from the pool, one that finds the pool full, a command in each; then nothing is left.
pub fn from_sign_in_to_nothing_left() -> Result<String> {
    let data = PathBuf::from("/tmp/up");
    owner::block_on(async {
        let up = Up::start(&data, &["--monitor", "kvm", "--images", STORE, "--pool", "1"]).await?;
        let lived = live(&up).await;
        let stopped = up.stop().await;
        let said = fs::read_to_string(log_path(&data)).unwrap_or_default();
        let said = lived.and_then(|said| stopped.map(|()| said)).context(said)?;
        for place in ["run/guests", "run/sandboxes"] {
            ensure!(fs::read_dir(data.join(place))?.count() == 0, "something is left in {place}");
        }
        let groups = fs::read_dir("/sys/fs/cgroup/omnirun")?.flatten();
        let groups: Vec<_> = groups.filter(|entry| entry.path().is_dir()).collect();
        ensure!(groups.is_empty(), "{groups:?} are left");
        limit::wait_until("a process is left", Duration::from_millis(10), || {
            !limit::program_names().iter().any(|name| name.starts_with("omnirun"))
        })?;
        fs::remove_dir_all(&data)?;
        Ok(said)
    })
}

async fn live(up: &Up) -> Result<String> {
    let user = sign_in(&up.client()).await?;
    let first = use_sandbox(&user).await?;
    wait_for_spare(&up.data.join("run/guests")).await?;
    let second = use_sandbox(&user).await?;
    Ok(format!("a sandbox after {first} ms, with a full pool and a spare after {second} ms"))
}

async fn sign_in(client: &Client) -> Result<Client> {
    let asked = client.post("/auth/magic-link/request", json!({ "email": EMAIL })).await?.expect(200)?;
    let mails = client.get("/dev/mailbox").await?.expect(200)?;
    let mails = mails.as_array().context("no mails")?;
    let code = mails.iter().rfind(|mail| mail["to"] == EMAIL).context("no mail")?["code"].clone();
    let wish = json!({ "email": EMAIL, "code": code, "challengeId": asked["challengeId"] });
    let signed_in = client.post("/auth/otp/verify", wish).await?.expect(200)?;
    Ok(client.with_token(signed_in["token"].as_str().context("no token")?))
}

/// Creates a sandbox, runs a command and destroys it; answers after how many milliseconds it was there.
async fn use_sandbox(user: &Client) -> Result<u128> {
    let since = Instant::now();
    let made = user.post("/sandboxes", json!({ "template": "base", "timeout": 300 })).await?.expect(201)?;
    let took = since.elapsed().as_millis();
    let id = made["sandboxID"].as_str().context("no sandbox")?;
    let path = format!("/sandboxes/{id}");
    let command = json!({ "command": "echo hello from $(uname -s)" });
    let echoed = user.post(&format!("{path}/commands"), command).await?.expect(200)?;
    ensure!(echoed["stdout"] == "hello from Linux\n", "the guest said {echoed}");
    ensure!(user.delete(&path).await?.status.as_u16() == 204, "it was not destroyed");
    let since = Instant::now();
    while user.get(&path).await?.json()["state"] != "stopped" {
        ensure!(since.elapsed() < POOL_MAX, "it does not stop");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(took)
}

/// Waits until a guest of the pool is ready and a spare waits beside it.
async fn wait_for_spare(guests: &Path) -> Result<()> {
    let since = Instant::now();
    loop {
        let mut stages = Vec::new();
        for entry in fs::read_dir(guests)?.flatten() {
            if let Ok(stage) = Owner::stage_of(&entry.path().join(SOCKET)).await {
                stages.push(stage);
            }
        }
        if stages.contains(&Stage::Ready) && stages.contains(&Stage::Spare) {
            return Ok(());
        }
        ensure!(since.elapsed() < POOL_MAX, "there is no spare: {stages:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
