//! The keys of one role, for processes that hold no others: a gateway's machine has no `commands.key`.

use std::path::Path;

use omnirun_events::envelope::Role;
use omnirun_events::id::HostId;
use omnirun_events::keys::Digest;
use omnirun_events::signing::Signer;

use super::files::{self, Keys};
use super::{GatewaySecret, IdentityError, pinned_root, signer};

/// What the commands service signs with. Its Debug shows ids only.
#[derive(Debug)]
pub struct CommandsKeys {
    /// The pinned root key.
    pub root: Digest,
    /// Signs what is decided.
    pub signer: Signer,
}

/// What a gateway signs and derives with. Its Debug shows ids only.
#[derive(Debug)]
pub struct GatewayKeys {
    /// The pinned root key.
    pub root: Digest,
    /// Signs capabilities for the data path.
    pub signer: Signer,
    /// What command ids are derived with; the same on every gateway.
    pub secret: GatewaySecret,
}

/// Which host a worker is and what it signs with. Its Debug shows ids only.
#[derive(Debug)]
pub struct WorkerKeys {
    /// The pinned root key.
    pub root: Digest,
    /// The host that the key speaks for.
    pub host: HostId,
    /// Signs the life of its sandboxes, their meters, and itself.
    pub signer: Signer,
}

/// Loads `root.pub` and `keys/commands.key`; refused as [`super::load`] refuses them. No other file is looked at.
pub fn load_commands(data: &Path) -> Result<CommandsKeys, IdentityError> {
    let keys = open(data)?;
    Ok(CommandsKeys { root: pinned_root(data)?, signer: signer(&keys.commands_key(), Role::Commands)? })
}

/// Loads `root.pub`, `keys/gateway.key` and `keys/gateway.secret`; refused as [`super::load`] refuses them. No other file is looked at.
pub fn load_gateway(data: &Path) -> Result<GatewayKeys, IdentityError> {
    let keys = open(data)?;
    Ok(GatewayKeys {
        root: pinned_root(data)?,
        signer: signer(&keys.gateway_key(), Role::Gateway)?,
        secret: GatewaySecret(files::read_secret(&keys.gateway_secret())?),
    })
}

/// Loads `root.pub`, `keys/worker.key` and `keys/worker.host`; refused as [`super::load`] refuses them. No other file is looked at.
pub fn load_worker(data: &Path) -> Result<WorkerKeys, IdentityError> {
    let keys = open(data)?;
    Ok(WorkerKeys {
        root: pinned_root(data)?,
        host: files::read_host(&keys.worker_host())?,
        signer: signer(&keys.worker_key(), Role::Worker)?,
    })
}

fn open(data: &Path) -> Result<Keys, IdentityError> {
    let keys = Keys::of(data);
    keys.check_directory()?;
    Ok(keys)
}
