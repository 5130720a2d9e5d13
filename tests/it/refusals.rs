//! What cannot work is refused with a sentence that says what to do, and what was acknowledged before is still there afterwards.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::disk::SmallDisk;
use omnirun_test_support::up::{Up, ops};
use omnirun_test_support::world::{World, run, sandbox};
use omnirun_test_support::{binary, images};
use serde_json::json;
use tokio::process::Command;

/// How long a start may take to say that it is impossible.
const REFUSAL_MAX: Duration = Duration::from_secs(30);

/// Runs `omnirun up`, which must end by itself; answers what it says.
async fn refusal(data: &Path, arguments: &[&str]) -> Result<String> {
    let mut up = Command::new(binary()?);
    up.arg("up").arg("--data").arg(data).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(REFUSAL_MAX, up.output()).await.context("it did not end")??;
    ensure!(ended.status.code() == Some(1), "it ended with {}", ended.status);
    Ok(String::from_utf8(ended.stderr)?)
}

#[tokio::test]
async fn a_taken_port_is_named_and_nothing_is_made() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let images = images();
    let data = directory.path().join("data");
    let said = refusal(&data, &["--listen", &address, "--images", &images.to_string_lossy()]).await?;
    assert!(said.contains(&address) && said.contains("choose another --listen"), "{said}");
    assert_eq!(std::fs::read_dir(&data)?.count(), 0, "no keys and no log of an installation that never ran");
    Ok(())
}

#[tokio::test]
async fn a_template_store_without_its_kernel_is_refused_with_the_path_and_the_remedy() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("images");
    std::fs::create_dir(&store)?;
    for there in ["templates", "initramfs.cpio"] {
        symlink(images().canonicalize()?.join(there), store.join(there))?;
    }
    let arguments = ["--listen", "127.0.0.1:0", "--images", &store.to_string_lossy()];
    let said = refusal(&directory.path().join("data"), &arguments).await?;
    assert!(said.contains("images/kernel/vmlinux") && said.contains("scripts/guest-image"), "{said}");
    Ok(())
}

/// What `omnirun doctor` prints about this host, a line each, and its exit code.
async fn doctor(images: &Path) -> Result<(Vec<String>, Option<i32>)> {
    let mut doctor = Command::new(binary()?);
    doctor.arg("doctor").arg("--images").arg(images).stdin(Stdio::null());
    let ended = tokio::time::timeout(REFUSAL_MAX, doctor.output()).await.context("it did not end")??;
    let text = String::from_utf8(ended.stdout)?;
    Ok((text.lines().map(str::to_owned).collect(), ended.status.code()))
}

#[tokio::test]
async fn the_doctor_names_what_it_finds_and_fails_where_no_sandbox_can_run() -> Result<()> {
    let (said, code) = doctor(&images()).await?;
    let names: Vec<_> = said.iter().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let expected =
        ["kvm", "qemu", "images", "programs", "user", "cgroup", "swap", "ksm", "smt", "cores", "can"];
    assert_eq!((names, code), (expected.to_vec(), Some(0)), "{said:#?}");
    assert!(said[2].starts_with("ok    images    templates: ") && said[2].contains("base"), "{}", said[2]);
    let (said, code) = doctor(Path::new("/nowhere")).await?;
    assert_eq!(said[2], "bad   images    /nowhere holds no template: make them with scripts/guest-image");
    assert_eq!((said.last().map(String::as_str), code), (Some("sandboxes cannot run on this host"), Some(1)));
    Ok(())
}

#[tokio::test]
async fn kvm_that_was_asked_for_is_used_where_the_doctor_finds_it_and_refused_elsewhere_before_anything_is_made()
-> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let (said, _) = doctor(&images()).await?;
    if said[0].starts_with("ok ") {
        let up = Up::start(&data, &["--monitor", "kvm", "--pool", "0"]).await?;
        return up.stop().await;
    }
    let images = images().to_string_lossy().into_owned();
    let said = refusal(&data, &["--monitor", "kvm", "--listen", "127.0.0.1:0", "--images", &images]).await?;
    assert!(said.contains("/dev/kvm") && said.contains("or use the qemu monitor"), "{said}");
    assert!(!data.exists(), "nothing of an installation that never ran");
    Ok(())
}

#[tokio::test]
async fn on_a_full_disk_readers_are_served_writers_are_told_and_nothing_acknowledged_is_lost() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = SmallDisk::mount(&directory.path().join("data"), "160m")?;
    let mut world = World::start_in(directory, &["--pool", "0"]).await?;
    let session = world.sign_in("full@example.org").await?;
    session.post("/tokens", json!({ "name": "before" })).await?.expect(201)?;
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 110 << 20])?;

    let refused = session.post("/tokens", json!({ "name": "during" })).await?;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.headers.contains_key("retry-after"));
    assert!(!refused.text().contains("data"), "no path of the host is told: {}", refused.text());
    let listed = session.get("/tokens").await?.expect(200)?;
    assert!(listed.to_string().contains("before") && !listed.to_string().contains("during"), "{listed}");
    assert!(world.log_lines().contains("free space on the disk of"), "operators are told what to do");

    std::fs::remove_file(&ballast)?;
    wait_for(Duration::from_secs(20), async || {
        Ok((session.post("/tokens", json!({ "name": "after" })).await?.status == 201).then_some(()))
    })
    .await
    .context("it does not go on once there is space")?;
    let (up, _smtp, directory) = world.into_parts();
    let up = up.restart().await?;
    let listed = session.at(&up.address).get("/tokens").await?.expect(200)?.to_string();
    assert!(listed.contains("before") && listed.contains("after") && !listed.contains("during"), "{listed}");
    up.stop().await?;
    drop(disk);
    directory.close().context("cannot remove the test's directory")
}

#[tokio::test]
async fn a_corrupt_record_is_refused_with_its_position_and_mended_from_a_copy() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let (user, _) = world.user("corrupt@example.org").await?;
    let id = sandbox(&user, json!({ "template": "base" })).await?;
    omnirun_test_support::world::destroy(&user, &id).await?;
    let directory = world.stop().await?;
    let data = directory.path().join("data");
    let file = data.join("log/EVENTS/db");
    let good = std::fs::read(&file)?;
    let mut bad = good.clone();
    let name = b"sandbox.claimed";
    let at = bad.windows(name.len()).position(|bytes| bytes == name).context("the record is in the file")?;
    bad[at] ^= 1;
    std::fs::write(&file, &bad)?;

    let images = images().to_string_lossy().into_owned();
    let said = refusal(&data, &["--listen", "127.0.0.1:0", "--images", &images]).await?;
    assert!(said.contains("EVENTS") && said.contains("damaged at position"), "{said}");
    assert!(said.contains("from a copy"), "it says what to do: {said}");
    let root = data.join("root.pub");
    let (exit, said) = ops(&data, &["verify", "--root-key", &root.to_string_lossy()]).await?;
    assert!(exit != 0 && said.contains("damaged at position"), "{said}");

    std::fs::write(&file, &good)?;
    let up = Up::start(&data, &["--pool", "0"]).await?;
    user.at(&up.address).get("/account/usage").await?.expect(200)?;
    up.stop().await
}

#[tokio::test]
async fn a_guest_that_dies_ends_its_sandbox_and_whoever_waits_is_told() -> Result<()> {
    // The one whose guest is a process that can be killed without its owner.
    let mut world = World::start(&["--pool", "0", "--monitor", "qemu"]).await?;
    let (user, _) = world.user("dead@example.org").await?;
    let id = sandbox(&user, json!({ "template": "base", "timeout": 120 })).await?;
    run(&user, &id, "true").await?;
    let commands = format!("/sandboxes/{id}/commands");
    let waiting = user.post(&commands, json!({ "command": "sleep 100" }));
    let killed = async {
        let monitor = monitor(&world.data())?;
        let status = Command::new("kill").args(["-KILL", &monitor.to_string()]).status().await?;
        ensure!(status.success(), "cannot kill the guest's monitor");
        anyhow::Ok(())
    };
    let (answer, killed) = tokio::join!(waiting, killed);
    killed?;
    let answer = answer?;
    assert!(matches!(answer.status.as_u16(), 409 | 502), "{} {}", answer.status, answer.text());
    assert!(answer.json()["message"].is_string() && answer.json()["code"].is_string(), "{}", answer.text());
    wait_for(Duration::from_secs(30), async || {
        Ok((user.get(&format!("/sandboxes/{id}")).await?.json()["state"] == "stopped").then_some(()))
    })
    .await
    .context("the log does not learn that the guest died")?;
    let after = user.post(&commands, json!({ "command": "true" })).await?;
    assert_eq!((after.status.as_u16(), after.json()["code"].as_str()), (409, Some("sandbox_ended")));
    let (_, events) = ops(&world.data(), &["tail", "--json", "--from", "1"]).await?;
    assert!(events.contains("guest_died"), "the reason is in the log: {events}");
    world.close().await
}

/// The process that runs the only guest below this data directory: it holds the guest's lock and is no `omnirun`.
fn monitor(data: &Path) -> Result<u32> {
    let guests = data.join("run/guests");
    let mut processes = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    let found = processes.find(|process| {
        let program = std::fs::read_link(process.join("exe")).unwrap_or_default();
        let lock = std::fs::read_link(process.join("fd/1")).unwrap_or_default();
        lock.starts_with(&guests) && program.file_name().is_some_and(|name| name != "omnirun")
    });
    let process = found.context("no guest runs")?;
    Ok(process.file_name().unwrap_or_default().to_string_lossy().parse()?)
}
