//! The end of a guest, for every reason, and what is left.

use std::{fs, path::Path, time::Duration};

use omnirun_vmm_api::owner::{EndReason, Final, Stage};
use serde_json::{Value, json};

use crate::support::{LIMIT, Owner, is_alive, start};

async fn until(is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < LIMIT, "it does not come to pass");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("it fits")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_guest_outlives_its_owner_killed_with_9() {
    let mut owner = Owner::claimed().await;
    let monitor = owner.status().await.monitor_pid.expect("QEMU is a process");
    assert!(is_alive(monitor));
    owner.process.kill().expect("it is our child");
    until(|| !is_alive(monitor)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_ends_its_guest_in_time_with_nobody_connected() {
    let mut owner = start(|_| ()).await;
    let monitor = owner.status().await.monitor_pid.expect("QEMU is a process");
    let end = now_ms() + 1_500;
    owner.claim("sandbox-1", json!(end + 60_000)).await;
    assert_eq!(owner.raw("POST", "/owner/end", &json!({"end_ms": end})).await.0, 204);
    let left = owner.left().await;
    assert_eq!(left.reason, EndReason::EndTime);
    assert!((end..end + 5_000).contains(&left.ended_at_ms.0), "{} and {end}", left.ended_at_ms.0);
    assert!(!is_alive(monitor));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guest_leaves_only_its_numbers() {
    let mut owner = Owner::claimed().await;
    owner.run("head -c 100000000 /dev/zero | sha256sum").await;
    let status = owner.status().await;
    let told: Final = owner.ask("POST", "/owner/kill", &json!({"reason": "killed"})).await;
    let left = owner.left().await;
    assert_eq!(told, left);
    assert_eq!(left.reason, EndReason::Killed);
    assert!(left.usage.vcpu_ms >= status.usage.vcpu_ms && left.usage.vcpu_ms.0 > 0);
    assert!(left.usage.memory_mib_s.0 <= left.usage.wall_ms.0 * 256 / 1000);
    assert!(!is_alive(status.monitor_pid.expect("QEMU is a process")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_shuts_itself_down_is_noticed() {
    let mut owner = Owner::claimed().await;
    // reboot(2) as root ends the machine, like a kernel panic would.
    let wish = json!({"command": "echo b > /proc/sysrq-trigger", "user": "root"});
    let _ = owner.raw("POST", "/agent/commands", &wish).await;
    assert_eq!(owner.left().await.reason, EndReason::GuestExited);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_guest_stands_still_and_goes_on() {
    let mut owner = Owner::claimed().await;
    for _ in 0..2 {
        assert_eq!(owner.raw("POST", "/owner/pause", &Value::Null).await.0, 204);
    }
    assert_eq!(owner.status().await.stage, Stage::Paused);
    assert_eq!(owner.refused("POST", "/agent/commands", &json!({"command": "true"})).await.1, "paused");
    assert_eq!(owner.raw("POST", "/owner/resume", &Value::Null).await.0, 204);
    assert_eq!(owner.run("echo on").await["stdout"], "on\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_holds_is_in_no_file_of_its_state_directory() {
    let mut owner = Owner::claimed().await;
    // Spelled in two halves, so that the search cannot find the test itself.
    let canary = ["canary-", "d41d8cd98f00b204"].concat();
    let wish = json!({"command": format!("echo {canary} | tee file-{canary}; sync"), "envs": {"E": canary}});
    let ended: Value = owner.ask("POST", "/agent/commands", &wish).await;
    assert_eq!(ended["stdout"], format!("{canary}\n"));
    let found = |root: &Path| search(root, canary.as_bytes());
    assert!(!found(&owner.state));
    fs::write(owner.state.join("control"), &canary).expect("the directory is ours");
    assert!(found(&owner.state), "the search finds what is there");
    let _: Final = owner.ask("POST", "/owner/kill", &Value::Null).await;
    owner.left().await;
    assert!(!found(&owner.state));
}

/// Whether a file below a directory holds the bytes.
fn search(root: &Path, wanted: &[u8]) -> bool {
    fs::read_dir(root).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return search(&path, wanted);
        }
        let is_in_name = entry.file_name().as_encoded_bytes().windows(wanted.len()).any(|w| w == wanted);
        is_in_name || fs::read(&path).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|w| w == wanted))
    })
}
