//! Template snapshots: made once, restored many times, refused when they are not what they should be.

use std::{
    collections::HashSet,
    fs,
    io::Read,
    os::unix::fs::{FileExt, MetadataExt, symlink},
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use omnirun_vmm::kvm::snapshot::{State, codec};
use omnirun_vmm_api::{
    Purpose, Vcpus,
    owner::{OwnerSpec, Snapshotted, StartFrom},
};
use serde_json::Value;

use super::bad_input::refusal;
use crate::owner::{self, Owner, STORE};

/// Makes the template's snapshot for a shape; answers with its directory.
pub async fn make(name: &str, shape: impl FnOnce(&mut OwnerSpec)) -> Result<PathBuf> {
    let mut template = Owner::start(name, |spec| {
        shape(spec);
        spec.purpose = Purpose::Snapshot;
    })
    .await?;
    let made: Snapshotted = template
        .ask("POST", "/owner/snapshot", &Value::Null)
        .await
        .with_context(|| "the snapshot was not made")?;
    ensure!(template.wait()?.success(), "the owner ended badly: {}", template.complaints());
    Ok(Path::new(STORE).join("templates/base/snapshot").join(made.key))
}

/// The same for one processor and 128 MiB, where there is none yet: guests that are restored save a case the time of a boot.
pub async fn have() -> Result<()> {
    let made = fs::read_dir(Path::new(STORE).join("templates/base/snapshot")).into_iter().flatten().flatten();
    let fits = |name: &str| name.ends_with("-c1-m128");
    if made.into_iter().any(|entry| fits(&entry.file_name().to_string_lossy())) {
        return Ok(());
    }
    make("template", |_| ()).await.map(drop)
}

/// Of a file's content; any change of one word changes it.
fn digest(path: &Path) -> Result<u64> {
    let mut file = fs::File::open(path)?;
    let mut chunk = vec![0; 1 << 20];
    let mut sum = 0_u64;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(sum);
        }
        for word in chunk[..read].chunks_exact(8) {
            sum = sum.rotate_left(7) ^ u64::from_le_bytes(word.try_into()?);
        }
    }
}

/// A guest that is restored.
pub fn from_snapshot(spec: &mut OwnerSpec) {
    spec.start_from = StartFrom::Snapshot;
}

/// Each has its own randomness, ids and clock, and the file is as it was.
pub fn twenty_restores() -> Result<String> {
    owner::block_on(async {
        let directory = make("template", |_| ()).await?;
        let memory = fs::metadata(directory.join("memory"))?;
        ensure!(memory.blocks() * 512 < memory.len() * 3 / 4, "the memory file is not sparse");
        let written = digest(&directory.join("memory"))?;
        let mut seen = HashSet::new();
        let mut answered = Vec::new();
        for round in 0..20 {
            let mut owner = Owner::start("restored", from_snapshot).await?;
            let status = owner.status().await?;
            ensure!(status.started_from == Some(StartFrom::Snapshot), "it was booted");
            answered.push(status.answered_after_ms.unwrap_or_default().0);
            let claimed = owner.claim("sandbox").await?;
            let said =
                owner.run("head -c 16 /dev/urandom | od -An -tx1; date +%s; cat /etc/machine-id").await?;
            let lines: Vec<_> = said.lines().map(str::to_owned).collect();
            ensure!(lines.len() == 3 && lines[2] == claimed.machine_id, "round {round}: {said:?}");
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            let inside: u64 = lines[1].parse()?;
            ensure!(
                now.abs_diff(inside) <= 5,
                "round {round}: the guest's clock is {inside}, the lab's {now}"
            );
            for value in [lines[0].clone(), claimed.boot_id, claimed.machine_id, claimed.instance] {
                ensure!(seen.insert(value), "round {round}: two guests share something");
            }
            owner.kill().await?;
        }
        let after = (digest(&directory.join("memory"))?, fs::metadata(directory.join("memory"))?.mtime());
        ensure!(after == (written, memory.mtime()), "the memory file changed");
        answered.sort_unstable();
        let (used, all) = (memory.blocks() >> 11, memory.len() >> 20);
        Ok(format!("20 of 20, first answer after {} ms (median), file {used} of {all} MiB", answered[10]))
    })
}

/// An owner that has its jail and its machine, and gets its guest when it is told.
pub fn a_spare_restores_when_told() -> Result<String> {
    owner::block_on(async {
        make("template", |_| ()).await?;
        let mut answered = Vec::new();
        for _ in 0..5 {
            let mut spare = Owner::spare("spare").await?;
            ensure!(spare.status().await?.resident_bytes.0 == 0, "it has a guest already");
            let since = Instant::now();
            spare.ask::<Value>("POST", "/owner/start", &Value::Null).await?;
            let took = since.elapsed();
            spare.wait_ready().await?;
            let status = spare.status().await?;
            ensure!(status.started_from == Some(StartFrom::Snapshot), "it was booted");
            spare.claim("sandbox").await?;
            ensure!(spare.run("echo there").await? == "there\n", "it runs no commands");
            answered.push((took, status.answered_after_ms.unwrap_or_default().0));
            spare.kill().await?;
        }
        answered.sort_unstable();
        let (took, first) = answered[2];
        Ok(format!("5 of 5, resumed after {took:?}, first answer after {first} ms (median)"))
    })
}

/// Interrupts, clocks and work of more than one processor go on.
pub fn with_two_processors() -> Result<String> {
    let two = |spec: &mut OwnerSpec| spec.vcpus = Vcpus(2);
    owner::block_on(async {
        make("template-2", two).await?;
        for round in 0..3 {
            let mut owner = Owner::start("restored-2", |spec| {
                two(spec);
                from_snapshot(spec);
            })
            .await?;
            owner.claim("sandbox").await?;
            let said =
                owner.run("for c in 0 1; do taskset -c $c sh -c 'sleep 0.1; echo ran'; done; nproc").await?;
            ensure!(said == "ran\nran\n2\n", "round {round}: {said:?}");
            owner.kill().await?;
        }
        Ok("3 of 3".to_owned())
    })
}

/// Starts from the snapshot, which must be refused; answers with what the owner says.
async fn refused(change: impl FnOnce(&mut OwnerSpec)) -> Result<String> {
    let mut owner = Owner::begin("refused", |spec| {
        change(spec);
        from_snapshot(spec);
    })
    .await?;
    let status = owner.wait()?;
    ensure!(status.code() == Some(1), "the owner ended with {status}");
    Ok(owner.complaints())
}

/// Each names the file and what to do, and leaves no guest.
pub fn refusals() -> Result<String> {
    owner::block_on(async {
        let directory = make("template", |_| ()).await?;
        let (state, memory) = (directory.join("state"), directory.join("memory"));
        let whole = fs::read(&state)?;
        let changed = |at: usize, with: u8| {
            let mut bytes = whole.clone();
            bytes[at] ^= with;
            bytes
        };
        let mut elsewhere: State = codec::decode(&whole)?;
        elsewhere.fingerprint[2] ^= 1;
        let cases = [
            ("another processor", codec::encode(&elsewhere)?, "it was made on another processor"),
            ("cut", whole[..whole.len() / 2].to_vec(), "bytes long instead of"),
            ("flipped", changed(whole.len() / 2, 4), "it is damaged"),
            ("another version", changed(8, 3), "it is of version 1"),
            ("foreign", b"#!/bin/sh".to_vec(), "it is no snapshot"),
            ("empty", Vec::new(), "it is no snapshot"),
        ];
        for (name, bytes, expected) in cases {
            fs::write(&state, bytes)?;
            let said = refused(|_| ()).await?;
            ensure!(
                said.contains(expected) && said.contains("/state") && said.contains("remove"),
                "{name}: {said}"
            );
        }
        fs::write(&state, &whole)?;
        let file = fs::File::options().read(true).write(true).open(&memory)?;
        let length = file.metadata()?.len();
        let mut end = [0; 4096];
        file.read_exact_at(&mut end, length - 4096)?;
        file.write_all_at(&[0xff; 16], length - 4096 + 16)?;
        let said = refused(|_| ()).await?;
        ensure!(said.contains("/memory") && said.contains("another state file"), "another memory: {said}");
        file.set_len(length - 4096)?;
        refused_at_once(&memory, "it is cut short")?;
        file.write_all_at(&end, length - 4096)?;
        tampered(&directory)?;
        fs::write(&state, changed(whole.len() / 2, 4))?;
        boots_instead(&directory).await?;
        Ok("11 of 11".to_owned())
    })
}

/// Before anything is made for the guest: a file that is not the one that was put there.
fn refused_at_once(path: &Path, reason: &str) -> Result<()> {
    let (code, said) = refusal(None, from_snapshot)?;
    let is_told = said.starts_with(&format!("omnirun vmm: bad-input: cannot use {}: ", path.display()))
        && said.contains(reason)
        && said.contains("remove the snapshot's directory")
        && said.lines().count() == 1;
    ensure!(code == Some(2) && is_told, "{}: {code:?} {said}", path.display());
    Ok(())
}

/// A file of the host in the place of one of the snapshot's, and the description of another snapshot; as it was afterwards.
fn tampered(directory: &Path) -> Result<()> {
    // On the store's own file system, so that it can be moved there.
    const OUTSIDE: &str = "/outside";
    let (memory, meta) = (directory.join("memory"), directory.join("meta.json"));
    fs::rename(&memory, OUTSIDE)?;
    symlink(OUTSIDE, &memory)?;
    refused_at_once(&memory, "a symbolic link is on its path")?;
    fs::remove_file(&memory)?;
    fs::rename(OUTSIDE, &memory)?;
    let described = fs::read_to_string(&meta)?;
    fs::write(&meta, described.replacen("-c1-m128", "-c1-m256", 1))?;
    refused_at_once(&meta, "it is of another snapshot")?;
    Ok(fs::write(&meta, described)?)
}

/// Whoever would as well have a boot is told why it is one, and the damaged snapshot goes.
async fn boots_instead(directory: &Path) -> Result<()> {
    let mut owner = Owner::start("instead", |spec| spec.start_from = StartFrom::Auto).await?;
    ensure!(owner.status().await?.started_from == Some(StartFrom::Boot), "it was restored");
    let said = owner.complaints();
    let begin = "omnirun vmm: instead: the guest is booted instead: ";
    ensure!(said.starts_with(begin) && said.contains("it is damaged"), "it said {said:?}");
    ensure!(!directory.exists(), "the damaged snapshot stays");
    owner.kill().await.map(drop)
}
