//! Starting an owner process, which makes itself independent of this one.

use std::io;
use std::path::Path;
use std::process::Stdio;

use omnirun_vmm_api::owner::OwnerSpec;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::place::{Places, VmId};

/// The argument that makes the program an owner process.
const ROLE: &str = "vmm";

/// An owner process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its lock could not be made.
    #[error("cannot lock the guest's state")]
    Lock(#[source] io::Error),
    /// The program could not be run.
    #[error("cannot run the owner process")]
    Run(#[source] io::Error),
    /// It did not take its spec.
    #[error("cannot hand the owner process its spec")]
    Spec(#[source] io::Error),
}

/// Starts an owner process. It holds the guest's lock as its standard output, which it and its monitor keep open until they end; nothing
/// can be written there. Its standard error is ours.
pub async fn spawn(
    executable: &Path,
    places: &Places,
    vm: &VmId,
    spec: &OwnerSpec,
) -> Result<(), SpawnError> {
    let text = serde_json::to_vec(spec).expect("paths made of text and numbers are JSON");
    let lock = places.lock(vm).map_err(SpawnError::Lock)?;
    let mut command = Command::new(executable);
    command.arg(ROLE).stdin(Stdio::piped()).stdout(lock).stderr(Stdio::inherit()).kill_on_drop(false);
    let spawned = command.spawn();
    // The command holds the lock too.
    drop(command);
    let mut child = spawned.map_err(SpawnError::Run)?;
    let handed = async {
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&text).await?;
        stdin.shutdown().await
    };
    let handed = handed.await.map_err(SpawnError::Spec);
    // Reaps it while this process lives; afterwards the system does. Its end is seen by its lock.
    tokio::spawn(async move { drop(child.wait().await) });
    handed
}
