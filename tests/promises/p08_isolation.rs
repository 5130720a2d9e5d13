//! P8: every sandbox is a microVM with its own kernel, isolated from the others and from the host.

use anyhow::Result;
use omnirun_test_support::world::{World, destroy, run, sandbox};
use serde_json::json;

#[tokio::test]
async fn two_sandboxes_have_kernels_of_their_own_and_no_way_to_anybody() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
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
    for id in [one, two] {
        destroy(&user, &id).await?;
    }
    world.close().await
}

/// Whether a process of the host has this command line.
fn host_runs(command_line: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.starts_with(command_line.as_bytes()))
}
