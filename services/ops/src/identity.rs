//! The keys of one installation: made once, pinned, enrolled on `sys.keys`.
//!
//! ```text
//!   <data>/root.pub               the root key's fingerprint: what everything is believed by
//!   <data>/keys/root.key          its secret; needed to enrol and retire, so it may be kept elsewhere
//!   <data>/keys/commands.key      one Ed25519 seed each (RFC 8032 section 5.1.5)
//!   <data>/keys/gateway.key
//!   <data>/keys/worker.key
//!   <data>/keys/worker.host       the host that worker.key speaks for
//!   <data>/keys/gateway.secret    what command ids are derived with
//! ```
//!
//! A file holds one line: 32 bytes as 64 hexadecimal digits, or a host id. The fingerprint is the root's public key itself, not a
//! hash of it: whoever holds the fingerprint can then check an export with nothing else at hand. The master key of sealed
//! fields is not made here; see [`create_with`].

mod enrol;
mod files;
mod roles;

use std::fmt;
use std::path::{Path, PathBuf};

use omnirun_events::envelope::Role;
use omnirun_events::id::HostId;
use omnirun_events::keys::Digest;
use omnirun_events::signing::Signer;
use zeroize::{Zeroize as _, ZeroizeOnDrop};

pub use enrol::{EnrolError, Enrolled, enrol, retire};
pub(crate) use files::parse_hex as parse_fingerprint;
pub use files::{create, create_with, pinned_root};
pub use roles::{CommandsKeys, GatewayKeys, WorkerKeys, load_commands, load_gateway, load_worker};

use files::Keys;

/// Why the keys cannot be made or used. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There are keys already.
    #[error("{} exists; keys are never overwritten: use another --data, or move that one away first", path.display())]
    Exists {
        /// The directory or file in the way.
        path: PathBuf,
    },
    /// A file that must be there is not.
    #[error("{} is missing; make the keys with `omnirun ops init`, or restore it from a copy", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others could read or change it.
    #[error("{} has mode {mode:03o}, so that others can reach it; run: chmod {wanted:03o} {}", path.display(), path.display())]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The bits that it should have.
        wanted: u32,
    },
    /// Its content is not what belongs there.
    #[error("{} does not hold {expected}; restore it from a copy", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// The pinned fingerprint is another key's.
    #[error("{} pins another root key than {}; restore the file that was changed", pinned.display(), key.display())]
    ForeignRoot {
        /// The pinned fingerprint.
        pinned: PathBuf,
        /// The root key.
        key: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written. What was begun is finished by the next call.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system has no random numbers.
    #[error("the system's random source does not answer")]
    Random,
}

/// What command ids are derived with. Wiped from memory when dropped; never printed.
#[derive(Clone, ZeroizeOnDrop)]
pub struct GatewaySecret([u8; 32]);

impl GatewaySecret {
    /// The 32 bytes, for the HMAC and nothing else.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for GatewaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewaySecret([redacted])")
    }
}

/// Every key of one installation, loaded. Its Debug shows ids only.
#[derive(Debug)]
pub struct Identity {
    /// The pinned root key: what every reader believes by.
    pub root: Digest,
    /// Signs what the commands service decides.
    pub commands: Signer,
    /// Signs capabilities for the data path.
    pub gateway: Signer,
    /// The worker host of this installation and its key.
    pub worker: (HostId, Signer),
    /// What command ids are derived with.
    pub gateway_secret: GatewaySecret,
    root_signer: Option<Signer>,
}

impl Identity {
    /// The root key's secret half, unless it is kept elsewhere.
    pub fn root_signer(&self) -> Option<&Signer> {
        self.root_signer.as_ref()
    }
}

/// Whether keys were made in this data directory, also when that was interrupted before they were enrolled.
pub fn exists(data: &Path) -> bool {
    Keys::of(data).directory().exists()
}

/// Loads the keys of a data directory. Refused when a file is missing, malformed or within reach of others.
pub fn load(data: &Path) -> Result<Identity, IdentityError> {
    let keys = Keys::of(data);
    keys.check_directory()?;
    let root = pinned_root(data)?;
    let root_signer = match keys.root_key().try_exists() {
        Ok(false) => None,
        _ => Some(signer(&keys.root_key(), Role::Root)?),
    };
    if root_signer.as_ref().is_some_and(|signer| signer.public() != root) {
        return Err(IdentityError::ForeignRoot { pinned: files::root_pub(data), key: keys.root_key() });
    }
    Ok(Identity {
        root,
        commands: signer(&keys.commands_key(), Role::Commands)?,
        gateway: signer(&keys.gateway_key(), Role::Gateway)?,
        worker: (files::read_host(&keys.worker_host())?, signer(&keys.worker_key(), Role::Worker)?),
        gateway_secret: GatewaySecret(files::read_secret(&keys.gateway_secret())?),
        root_signer,
    })
}

fn signer(path: &Path, role: Role) -> Result<Signer, IdentityError> {
    let mut seed = files::read_secret(path)?;
    let signer = Signer::from_seed(&seed, role);
    seed.zeroize();
    Ok(signer)
}
