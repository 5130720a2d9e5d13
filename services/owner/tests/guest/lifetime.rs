//! The end of a guest, for every reason, and what is left.

use std::{fs, path::Path, time::Duration};

use omnirun_vmm_api::Millis;
use omnirun_vmm_api::owner::{EndReason, Final, Stage, StartWhen};
use serde_json::{Value, json};

use crate::support::{LIMIT, Owner, begin, is_alive, start};

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
async fn a_guest_whose_worker_stays_away_for_too_long_ends_and_leaves_its_numbers() {
    let mut owner = start(|spec| spec.unattended_limit = Millis(3_000)).await;
    owner.claim("sandbox-1", json!(now_ms() + 60_000)).await;
    // Connected, it lives on for longer than that.
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        assert_eq!(owner.status().await.stage, Stage::Claimed);
    }
    owner.disconnect();
    let left = owner.left().await;
    assert_eq!(left.reason, EndReason::HostCutOff);
    assert!(left.usage.wall_ms.0 >= 7_000, "{left:?}");
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
async fn a_guest_that_nobody_can_find_any_more_ends() {
    let mut owner = start(|_| ()).await;
    let monitor = owner.status().await.monitor_pid.expect("QEMU is a process");
    fs::remove_dir_all(&owner.state).expect("it is ours");
    until(|| !is_alive(monitor)).await;
    assert!(owner.process.wait().expect("it is our child").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_ended_while_it_starts_leaves_only_its_numbers() {
    let mut owner = begin(|_| ()).await;
    let told: Final = owner.ask("POST", "/owner/kill", &json!({"reason": "not_needed"})).await;
    assert_eq!((told.reason, told.usage.wall_ms.0), (EndReason::NotNeeded, 0));
    assert_eq!(owner.left().await, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_waits_for_a_word_starts_with_it_and_not_before() {
    let mut owner = begin(|spec| spec.start_when = StartWhen::Told).await;
    let status = owner.status().await;
    assert_eq!((status.stage, status.monitor_pid), (Stage::Spare, None));
    let wish = json!({"sandbox_id": "sandbox-1", "hostname": "sandbox-1"});
    assert_eq!(owner.refused("POST", "/owner/claim", &wish).await, (409, "not_ready".to_owned()));
    for _ in 0..2 {
        assert_eq!(owner.raw("POST", "/owner/start", &Value::Null).await.0, 204);
        assert!(owner.status().await.monitor_pid.is_some());
    }
    owner.wait_for(|status| status.stage == Stage::Ready).await;
    owner.claim("sandbox-1", Value::Null).await;
    assert_eq!(owner.run("echo there").await["stdout"], "there\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_waits_for_a_word_can_be_ended_instead_and_another_takes_no_word() {
    let mut owner = begin(|spec| spec.start_when = StartWhen::Told).await;
    let told: Final = owner.ask("POST", "/owner/kill", &json!({"reason": "not_needed"})).await;
    assert_eq!((told.reason, owner.left().await), (EndReason::NotNeeded, told));
    let mut owner = begin(|_| ()).await;
    assert_eq!(owner.refused("POST", "/owner/start", &Value::Null).await, (409, "not_spare".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_caller_hangs_up_is_killed_and_forgotten() {
    let mut owner = Owner::claimed().await;
    let wish = json!({"command": "sleep 1000", "timeout": 0});
    let call = owner.raw("POST", "/agent/commands", &wish);
    assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err(), "it waits");
    let since = std::time::Instant::now();
    while owner.run("pgrep sleep").await["exit_code"] == 0 {
        assert!(since.elapsed() < LIMIT, "the command lives on");
    }
    assert_eq!(owner.ask::<Value>("GET", "/agent/commands", &Value::Null).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_of_a_guest_sees_nothing_of_the_host() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: so do namespaces");
    let mut owner = Owner::claimed().await;
    let monitor = owner.status().await.monitor_pid.expect("QEMU is a process");
    let of = |name: &str| fs::read_link(format!("/proc/{monitor}/{name}")).expect("it lives");
    for space in ["net", "mnt", "pid", "ipc", "uts"] {
        let own = fs::read_link(format!("/proc/self/ns/{space}")).expect("Linux has it");
        assert_ne!(of(&format!("ns/{space}")), own, "it shares the host's {space} namespace");
    }
    let mut names: Vec<_> =
        fs::read_dir(format!("/proc/{monitor}/root")).expect("it lives").flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let names: Vec<_> = names.iter().map(|entry| entry.file_name().into_string().expect("plain")).collect();
    assert_eq!(names, ["dev", "initramfs", "kernel", "lib", "lib64", "root.sqfs", "usr"]);
    let status = fs::read_to_string(format!("/proc/{monitor}/status")).expect("it lives");
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).expect("proc(5)").trim().to_owned()
    };
    let id = (1_900_000_000 + owner.process.id()).to_string();
    assert_eq!(field("Uid:"), [id.as_str(); 4].join("\t"));
    assert_eq!((field("CapEff:").as_str(), field("NoNewPrivs:").as_str()), ("0000000000000000", "1"));
    assert_eq!(field("Seccomp:"), "2");
    let limits = fs::read_to_string(format!("/proc/{monitor}/limits")).expect("it lives");
    let limit = |name: &str| {
        limits
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("proc(5)")
            .split_whitespace()
            .next()
            .map(str::to_owned)
    };
    assert_eq!(
        (limit("Max file size").as_deref(), limit("Max core file size").as_deref()),
        (Some("0"), Some("1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_guest_stands_still_and_goes_on() {
    let mut owner = Owner::claimed().await;
    for _ in 0..2 {
        assert_eq!(owner.raw("POST", "/owner/pause", &Value::Null).await.0, 204);
    }
    assert_eq!(owner.status().await.stage, Stage::Paused);
    // Long enough that a clock which stood still would be seen.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(owner.refused("POST", "/agent/commands", &json!({"command": "true"})).await.1, "paused");
    assert_eq!(owner.raw("POST", "/owner/resume", &Value::Null).await.0, 204);
    let usage = owner.status().await.usage;
    assert!(usage.paused_ms.0 >= 1_000, "{usage:?}");
    assert!(usage.memory_mib_s.0 >= (usage.paused_ms.0 + usage.wall_ms.0) * 256 / 1000, "{usage:?}");
    let before = now_ms();
    let shown = owner.run("date +%s%3N").await["stdout"].as_str().expect("text").trim().to_owned();
    let inside: u64 = shown.parse().expect("a number");
    assert!((before - 20..=now_ms() + 20).contains(&inside), "its clock stood still: {inside} at {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_a_fine_clock_that_the_hosts_load_does_not_take_away() {
    let mut owner = Owner::claimed().await;
    // The kernel takes about a second to go from the counter's early form to its final one; its watchdog, where it has
    // one, has looked by then.
    let since = std::time::Instant::now();
    loop {
        let shown = owner.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").await;
        match shown["stdout"].as_str() {
            Some("tsc\n") => return,
            Some("tsc-early\n") => assert!(since.elapsed() < LIMIT, "it stays at the early form"),
            other => panic!("the clock is {other:?}"),
        }
    }
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
