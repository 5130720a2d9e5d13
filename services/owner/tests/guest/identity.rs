//! Snapshots, and what makes guests of one snapshot different.

use std::collections::HashSet;

use omnirun_vmm_api::{
    MemoryMib, Purpose,
    owner::{EndReason, Snapshotted, StartFrom},
};
use serde_json::{Value, json};

use crate::support::{Owner, start, store};

/// A shape of its own, so that no other test's snapshot is replaced.
const MEMORY: MemoryMib = MemoryMib(200);

#[tokio::test(flavor = "multi_thread")]
async fn guests_restored_from_one_snapshot_share_no_identity_and_no_randomness() {
    let mut template = start(|spec| {
        spec.purpose = Purpose::Snapshot;
        spec.memory = MEMORY;
    })
    .await;
    let claim = json!({"sandbox_id": "s", "hostname": "s"});
    assert_eq!(template.refused("POST", "/owner/claim", &claim).await, (409, "for_snapshot".to_owned()));
    let left_behind = store().join("templates/base/snapshot/left-behind.4194305");
    std::fs::create_dir_all(&left_behind).expect("the store is ours");
    let made: Snapshotted = template.ask("POST", "/owner/snapshot", &Value::Null).await;
    assert!(made.bytes.0 > 1 << 20);
    assert!(!left_behind.exists(), "no process has an id above 2^22");
    assert_eq!(template.left().await.reason, EndReason::Snapshotted);

    let mut seen = HashSet::new();
    for _ in 0..3 {
        let mut guest = start(|spec| {
            spec.memory = MEMORY;
            spec.start_from = StartFrom::Snapshot;
        })
        .await;
        let status = guest.status().await;
        assert_eq!(status.started_from, Some(StartFrom::Snapshot));
        let claimed = guest.claim("sandbox", json!(null)).await;
        assert_eq!(
            guest
                .ask::<Value>("POST", "/owner/claim", &json!({"sandbox_id": "sandbox", "hostname": "x"}))
                .await["instance"],
            json!(claimed.instance)
        );
        assert_eq!(guest.refused("POST", "/owner/claim", &claim).await, (409, "already_claimed".to_owned()));
        let inside = guest.run("cat /proc/sys/kernel/random/boot_id /etc/machine-id; date +%s").await;
        let lines: Vec<_> = inside["stdout"].as_str().expect("text").lines().map(str::to_owned).collect();
        assert_eq!((&lines[0], &lines[1]), (&claimed.boot_id, &claimed.machine_id));
        let host =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let inside_now: u64 = lines[2].parse().expect("a number");
        assert!(host.abs_diff(inside_now) <= 2, "the guest's clock is {inside_now}, the host's {host}");
        let random = guest.run("head -c 32 /dev/urandom | od -An -tx1").await["stdout"].to_string();
        for value in [claimed.boot_id, claimed.machine_id, claimed.instance, random] {
            assert!(seen.insert(value), "two guests share something");
        }
    }
    assert_eq!(seen.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_snapshot_is_discarded_and_the_guest_boots() {
    const SHAPE: MemoryMib = MemoryMib(201);
    let mut template = start(|spec| {
        spec.purpose = Purpose::Snapshot;
        spec.memory = SHAPE;
    })
    .await;
    let made: Snapshotted = template.ask("POST", "/owner/snapshot", &Value::Null).await;
    template.left().await;
    let directory = store().join("templates/base/snapshot").join(&made.key);
    let memory = std::fs::File::options().write(true).open(directory.join("memory")).expect("it was made");
    memory.set_len(made.bytes.0 / 2).expect("it is ours");
    let mut guest = start(|spec| {
        spec.memory = SHAPE;
        spec.start_from = StartFrom::Auto;
    })
    .await;
    assert_eq!(guest.status().await.started_from, Some(StartFrom::Boot));
    assert!(!directory.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_before_a_guest_is_claimed() {
    let mut guest = start(|_| ()).await;
    let wish = json!({"command": "true"});
    assert_eq!(guest.refused("POST", "/agent/commands", &wish).await, (409, "not_claimed".to_owned()));
    assert_eq!(guest.refused("POST", "/agent/personalise", &json!({})).await.0, 404);
    assert_eq!(
        guest.refused("POST", "/owner/snapshot", &Value::Null).await,
        (409, "not_for_snapshot".to_owned())
    );
    let bad = json!({"sandbox_id": "s", "hostname": "Not A Name"});
    assert_eq!(guest.refused("POST", "/owner/claim", &bad).await, (422, "bad_hostname".to_owned()));
    guest.claim("sandbox-2", json!(null)).await;
    assert_eq!(guest.run("hostname").await["stdout"], "sandbox-2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_a_kernel_of_its_own_and_no_way_out() {
    let mut guest = Owner::claimed().await;
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux has it");
    let inside = guest.run("cat /proc/sys/kernel/random/boot_id; uname -r; ls /sys/class/net").await;
    let text = inside["stdout"].as_str().expect("text").to_owned();
    assert!(
        !text.contains(host.trim()) && text.contains("-cloud-amd64\n") && text.ends_with("\nlo\n"),
        "{text}"
    );
    let wish = json!({"command": "exec 3<>/dev/tcp/169.254.169.254/80"});
    let tried: Value = guest.ask("POST", "/agent/commands", &wish).await;
    assert_ne!(tried["exit_code"], 0);
}
