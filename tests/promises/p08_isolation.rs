//! P8: every sandbox is a microVM with its own kernel, isolated from the others and from the host.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use omnirun_test_support::world::{World, destroy, run, sandbox};
use serde_json::json;

#[tokio::test]
async fn two_sandboxes_have_kernels_of_their_own_and_no_way_to_anybody() -> Result<()> {
    // By name, also where KVM works: what is looked at below are QEMU's processes. The lab looks at our own monitor's.
    let mut world = World::start(&["--pool", "0", "--monitor", "qemu"]).await?;
    let port = world.up.address.rsplit(':').next().expect("an address has a port").to_owned();
    let (user, _) = world.user("p08@example.org").await?;
    let wish = json!({ "template": "base", "timeout": 120 });
    let (one, two) = (sandbox(&user, wish.clone()).await?, sandbox(&user, wish).await?);

    let mut boots = vec![std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned()];
    for id in [&one, &two] {
        boots.push(run(&user, id, "cat /proc/sys/kernel/random/boot_id").await?);
        assert_ne!(
            run(&user, id, "uname -v").await?,
            std::fs::read_to_string("/proc/sys/kernel/version")?.trim()
        );
        assert_eq!(run(&user, id, "ls /sys/class/net").await?, "lo", "no network device");
        for target in [format!("127.0.0.1/{port}"), "169.254.169.254/80".into(), "10.0.2.2/80".into()] {
            let tried =
                run(&user, id, &format!("timeout 3 bash -c 'echo > /dev/tcp/{target}' 2>&1 || echo refused"))
                    .await?;
            assert!(tried.ends_with("refused"), "{target} answered");
        }
        assert_eq!(run(&user, id, "echo mine > /tmp/neighbour; cat /tmp/neighbour").await?, "mine");
        let of_others = run(&user, id, "touch /mark-of-$(hostname); ls / | grep -c mark-of").await;
        assert!(
            of_others.is_err() || of_others.is_ok_and(|count| count == "1"),
            "a neighbour's file is seen"
        );
    }
    boots.sort();
    boots.dedup();
    assert_eq!(boots.len(), 3, "the host and both guests have boot ids of their own");

    // The monitor runs as nobody else's user, and the guest's processes are no processes of the host.
    let canary = "sleep 4242";
    user.post(&format!("/sandboxes/{one}/commands"), json!({ "command": canary, "background": true }))
        .await?
        .expect(200)?;
    assert!(
        run(
            &user,
            &one,
            "ps -eo args 2>/dev/null | grep -c '^sleep 4242' || grep -lsa 4242 /proc/[0-9]*/cmdline | wc -l"
        )
        .await?
            != "0"
    );
    assert!(!host_runs("sleep\u{0}4242"), "a guest's process is a process of the host");
    let monitors = monitors_below(world.up.pid()?)?;
    assert_eq!(monitors.len(), 2, "each sandbox has a monitor of its own");
    for (pid, user, network) in &monitors {
        assert!(*user >= 1_900_000_000, "monitor {pid} runs as user {user}");
        assert_ne!(
            *network,
            std::fs::read_link("/proc/self/ns/net")?,
            "monitor {pid} is in the host's network"
        );
    }
    let mut users: Vec<u32> = monitors.iter().map(|(_, user, _)| *user).collect();
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), monitors.len(), "no two monitors share a user");
    for id in [one, two] {
        destroy(&user, &id).await?;
    }
    world.close().await
}

/// Every QEMU that this process started, by way of others or not: process id, user, network namespace.
fn monitors_below(ancestor: u32) -> Result<Vec<(u32, u32, PathBuf)>> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse() else { continue };
        let is_monitor = std::fs::read_to_string(process.path().join("comm"))
            .is_ok_and(|name| name.starts_with("qemu-system"));
        if is_monitor && is_below(pid, ancestor) {
            let user = status_field(pid, "Uid").context("it is there")?;
            found.push((pid, user, process.path().join("ns/net").read_link()?));
        }
    }
    Ok(found)
}

fn is_below(pid: u32, ancestor: u32) -> bool {
    match status_field(pid, "PPid") {
        Some(parent) => parent == ancestor || (parent > 1 && is_below(parent, ancestor)),
        None => false,
    }
}

/// The first number of a line of /proc/PID/status.
fn status_field(pid: u32, name: &str) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line?.split_whitespace().next()?.parse().ok()
}

/// Whether a process of the host has this command line.
fn host_runs(command_line: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.starts_with(command_line.as_bytes()))
}
