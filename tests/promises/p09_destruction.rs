//! P9: when a sandbox is destroyed, all its data is gone; nothing passes to the next.

use std::path::{Path, PathBuf};

use anyhow::Result;
use omnirun_test_support::world::{World, destroy, files_holding, run, sandbox};
use serde_json::json;

/// Never whole in this program's own memory or files: the guest joins the halves.
const CANARY: [&str; 2] = ["canary-of-a-destroyed-", "sandbox-8c1f2e"];

#[tokio::test]
async fn nothing_of_a_destroyed_sandbox_is_left() -> Result<()> {
    let mut world = World::start(&["--pool", "1"]).await?;
    let (user, _) = world.user("p09@example.org").await?;
    let wish = json!({ "template": "base", "timeout": 120 });
    let id = sandbox(&user, wish.clone()).await?;
    let [head, tail] = CANARY;
    let write = format!("printf '%s%s' {head} {tail} | tee /home/user/left /tmp/left; sync");
    let canary = run(&user, &id, &write).await?;
    assert_eq!(canary, CANARY.concat());
    destroy(&user, &id).await?;

    let places = [
        world.directory().to_owned(),
        omnirun_test_support::images(),
        "/dev/shm".into(),
        "/var/crash".into(),
    ];
    for place in places.iter().filter(|place| place.exists()) {
        assert_eq!(files_holding(place, canary.as_bytes())?, Vec::<PathBuf>::new());
    }
    assert_eq!(remains(&world.data().join("run"), &id)?, Vec::<PathBuf>::new());
    assert!(!somebody_has_open(&world.data(), &id), "a process still holds files of the sandbox");

    let next = sandbox(&user, wish).await?;
    assert_eq!(run(&user, &next, "ls -A /home/user /tmp | grep -c left || true").await?, "0");
    destroy(&user, &next).await?;
    let planted = world.directory().join("planted");
    std::fs::write(&planted, &canary)?;
    assert_eq!(files_holding(world.directory(), canary.as_bytes())?, [planted]);
    world.close().await
}

/// What below the guests' directory is named after the sandbox, or is the last word of a guest that has ended.
fn remains(run: &Path, sandbox: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(run)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.contains(sandbox) || name == "final.json" {
            found.push(path);
        } else if path.is_dir() {
            found.extend(remains(&path, sandbox)?);
        }
    }
    Ok(found)
}

/// Whether any process has a file open below the data directory whose path names the sandbox.
fn somebody_has_open(data: &Path, sandbox: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let descriptors =
        processes.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok()).flatten();
    descriptors
        .flatten()
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
        .any(|path| path.starts_with(data) && path.to_string_lossy().contains(sandbox))
}
