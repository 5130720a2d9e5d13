//! Template snapshots: taken of a guest that has just been booted and belongs to nobody, kept in the template store.

use std::{
    fs,
    fs::File,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use omnirun_vmm_api::{
    Bytes, Purpose, SnapshotFiles,
    owner::{Snapshotted, Stage},
};

use crate::{
    answer::{No, internal},
    owner::Owner,
};

/// The memory file in a snapshot's directory.
const MEMORY: &str = "memory";
/// Everything else of the guest, where the monitor keeps it apart.
const STATE: &str = "state";
/// What it was made of, for people and for `key`'s sake; its presence says that the snapshot is whole.
const META: &str = "meta.json";
/// After the port is closed: the guest notices, its agent ends the session and is idle. A few milliseconds are needed.
const SETTLE: Duration = Duration::from_millis(500);

fn key(owner: &Owner) -> Option<String> {
    let monitor = owner.monitor.identity().ok()?;
    Some(owner.template.snapshot_key(&monitor, owner.spec.vcpus, owner.spec.memory))
}

fn directory(owner: &Owner) -> Option<PathBuf> {
    Some(owner.template.snapshots().join(key(owner)?))
}

/// The snapshot that fits the spec, if there is one.
pub fn open(owner: &Owner) -> Option<SnapshotFiles> {
    let directory = directory(owner)?;
    let file = |name| File::open(directory.join(name)).ok();
    let (memory, state) = directory.join(META).is_file().then(|| Some((file(MEMORY)?, file(STATE)?)))??;
    Some(SnapshotFiles { memory, state, directory })
}

/// Removes the snapshot that fits the spec.
pub fn discard(owner: &Owner) {
    if let Some(directory) = directory(owner) {
        let _ = fs::remove_file(directory.join(META));
        let _ = fs::remove_dir_all(directory);
    }
}

/// Takes the snapshot. The guest is of no use afterwards: its port is closed for good.
pub async fn take(owner: &Owner) -> Result<Snapshotted, No> {
    let _changing = owner.changing.lock().await;
    let agent = {
        let life = owner.life();
        if owner.spec.purpose != Purpose::Snapshot || life.stage != Stage::Ready {
            return Err(No::conflict(
                "not_for_snapshot",
                "the guest is not an idle one that was booted for a snapshot",
            ));
        }
        life.agent.clone()
    };
    if let Some(agent) = agent {
        agent.warm().await.map_err(|_| internal("the guest's agent does not answer"))?;
    }
    {
        let mut life = owner.life();
        life.stage = Stage::Ending;
        // The last handle of the connection: dropping it closes the port.
        life.agent = None;
    }
    tokio::time::sleep(SETTLE).await;
    let key = key(owner).ok_or(internal("the monitor cannot be identified"))?;
    let temporary = owner.template.snapshots().join(format!("{key}.{}", std::process::id()));
    let made = write(owner, &key, temporary.clone()).await;
    if made.is_err() {
        let _ = fs::remove_dir_all(temporary);
    }
    made
}

async fn write(owner: &Owner, key: &str, temporary: PathBuf) -> Result<Snapshotted, No> {
    let disk = |_: io::Error| internal("the snapshot cannot be written to the template store");
    fs::create_dir_all(owner.template.snapshots()).map_err(disk)?;
    fs::DirBuilder::new().mode(0o700).create(&temporary).map_err(disk)?;
    let memory = File::create_new(temporary.join(MEMORY)).map_err(disk)?;
    let state = File::create_new(temporary.join(STATE)).map_err(disk)?;
    let written = [memory.try_clone().map_err(disk)?, state.try_clone().map_err(disk)?];
    let files = SnapshotFiles { memory, state, directory: temporary.clone() };
    let done = owner.with_guest(move |guest| guest.snapshot(files)).await;
    match done {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            crate::complain(&error);
            return Err(internal("the monitor could not take the snapshot"));
        }
        None => return Err(internal("the guest has ended")),
    }
    written.iter().try_for_each(File::sync_all).map_err(disk)?;
    let bytes = Bytes(written[0].metadata().map_err(disk)?.len());
    let made = Snapshotted { key: key.to_owned(), bytes };
    let meta = serde_json::json!({ "key": key, "bytes": bytes, "template": owner.template.digests });
    fs::write(temporary.join(META), format!("{meta}\n")).map_err(disk)?;
    let place = owner.template.snapshots().join(key);
    let _ = fs::remove_dir_all(&place);
    fs::rename(&temporary, &place).map_err(disk)?;
    remove_stale(owner, key);
    Ok(made)
}

/// Removes snapshots of the same shape that older files or another monitor made, which nothing will ever ask for, and
/// what an owner process that was killed while it wrote one has left.
fn remove_stale(owner: &Owner, key: &str) {
    let shape = format!("-c{}-m{}", owner.spec.vcpus.0, owner.spec.memory.0);
    for entry in fs::read_dir(owner.template.snapshots()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let writer = name.rsplit_once('.').and_then(|(_, pid)| pid.parse::<u32>().ok());
        let is_left_behind = writer.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if is_left_behind || name.ends_with(&shape) && name != key {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
