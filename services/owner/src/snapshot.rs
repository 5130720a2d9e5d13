//! Template snapshots: taken of a guest that has just been booted and belongs to nobody. Where they are kept is
//! [`crate::shelf`]'s.

use std::{fs::File, io, time::Duration};

use omnirun_vmm_api::{
    Bytes, Purpose,
    owner::{Snapshotted, Stage},
};

use crate::{
    answer::{No, internal},
    owner::Owner,
};

/// After the port is closed: the guest notices, its agent ends the session and is idle. A few milliseconds are needed.
const SETTLE: Duration = Duration::from_millis(500);

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
    write(owner).await
}

async fn write(owner: &Owner) -> Result<Snapshotted, No> {
    let disk = |_: io::Error| internal("the snapshot cannot be written to the template store");
    let files = owner.life().snapshot.take();
    let files = files.ok_or(internal("the snapshot has no files in the template store"))?;
    let written = [files.memory.try_clone().map_err(disk)?, files.state.try_clone().map_err(disk)?];
    let done = owner.with_guest(move |guest| guest.snapshot(files)).await;
    match done {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            owner.voice.complain(&error);
            return Err(internal("the monitor could not take the snapshot"));
        }
        None => return Err(internal("the guest has ended")),
    }
    written.iter().try_for_each(File::sync_all).map_err(disk)?;
    let bytes = Bytes(written[0].metadata().map_err(disk)?.len());
    owner.outside.keep_snapshot(bytes).map_err(disk)?;
    Ok(Snapshotted { key: owner.snapshot_key.clone(), bytes })
}
