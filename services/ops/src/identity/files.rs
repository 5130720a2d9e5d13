//! Key files: made in one step, read back only when nobody else can reach them.
//!
//! All are written into `keys.new`, then the root key is pinned, then the directory is renamed: a crash leaves either nothing that
//! counts or something that the next [`create`] finishes. What is in the files is in the parent module.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use omnirun_events::envelope::Role;
use omnirun_events::id::HostId;
use omnirun_events::keys::Digest;
use omnirun_events::signing::Signer;
use zeroize::{Zeroize as _, Zeroizing};

use super::IdentityError;

/// Mode of the directory of keys.
const DIRECTORY_MODE: u32 = 0o700;
/// Mode of a file of one secret.
const SECRET_MODE: u32 = 0o600;
/// Mode of the pinned fingerprint, which is public but may be changed by its owner only.
const PUBLIC_MODE: u32 = 0o644;
/// Bytes that a key file may have: 64 digits, a line end, and room for an editor's habits.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// Where the fingerprint is pinned.
pub(super) fn root_pub(data: &Path) -> PathBuf {
    data.join("root.pub")
}

/// The files in a directory of keys.
pub(super) struct Keys(PathBuf);

impl Keys {
    pub(super) fn of(data: &Path) -> Self {
        Self(data.join("keys"))
    }

    fn unfinished(data: &Path) -> Self {
        Self(data.join("keys.new"))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    pub(super) fn root_key(&self) -> PathBuf {
        self.0.join("root.key")
    }

    pub(super) fn commands_key(&self) -> PathBuf {
        self.0.join("commands.key")
    }

    pub(super) fn gateway_key(&self) -> PathBuf {
        self.0.join("gateway.key")
    }

    pub(super) fn worker_key(&self) -> PathBuf {
        self.0.join("worker.key")
    }

    pub(super) fn worker_host(&self) -> PathBuf {
        self.0.join("worker.host")
    }

    pub(super) fn gateway_secret(&self) -> PathBuf {
        self.0.join("gateway.secret")
    }

    pub(super) fn check_directory(&self) -> Result<(), IdentityError> {
        check_mode(&self.0, DIRECTORY_MODE, 0o077)
    }
}

/// Makes the keys of an installation in `data`, which is made as well, and pins the root key. Answers its fingerprint. Nothing that exists is
/// overwritten; an interrupted call is finished by the next one.
pub fn create(data: &Path) -> Result<Digest, IdentityError> {
    create_with(data, |_| Ok(()))
}

/// As [`create`], and calls `also` with the unfinished directory, in which it may make further files of mode 0600, such as the master
/// key of the commands service. They appear together with the others or not at all.
pub fn create_with(data: &Path, also: impl FnOnce(&Path) -> io::Result<()>) -> Result<Digest, IdentityError> {
    let keys = Keys::of(data);
    if keys.directory().exists() {
        return Err(IdentityError::Exists { path: keys.0 });
    }
    make_directory(data)?;
    let unfinished = Keys::unfinished(data);
    let pinned = root_pub(data);
    if !pinned.exists() {
        let root = fill(&unfinished, also)?;
        write_new(&pinned, PUBLIC_MODE, &format!("{root}\n"))?;
    } else if !unfinished.directory().exists() {
        return Err(IdentityError::Exists { path: pinned });
    }
    let root = pinned_root(data)?;
    let mut seed = read_secret(&unfinished.root_key())?;
    let public = Signer::from_seed(&seed, Role::Root).public();
    seed.zeroize();
    if public != root {
        return Err(IdentityError::ForeignRoot { pinned, key: unfinished.root_key() });
    }
    let renamed = fs::rename(unfinished.directory(), keys.directory()).and_then(|()| sync(data));
    renamed.map_err(|source| IdentityError::Write { path: keys.0, source })?;
    Ok(root)
}

/// Fills the unfinished directory anew; what an interrupted call left in it was never used.
fn fill(keys: &Keys, also: impl FnOnce(&Path) -> io::Result<()>) -> Result<Digest, IdentityError> {
    let failed = |source| IdentityError::Write { path: keys.0.clone(), source };
    match fs::remove_dir_all(&keys.0) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(source)),
        _ => {}
    }
    make_directory(&keys.0)?;
    let seed = random::<32>()?;
    let root = Signer::from_seed(&seed, Role::Root).public();
    write_secret(&keys.root_key(), &seed)?;
    for path in [keys.commands_key(), keys.gateway_key(), keys.worker_key(), keys.gateway_secret()] {
        let secret = random::<32>()?;
        write_secret(&path, &secret)?;
    }
    let host = HostId::from_bytes(*random::<16>()?);
    write_new(&keys.worker_host(), SECRET_MODE, &format!("{host}\n"))?;
    also(&keys.0).map_err(failed)?;
    sync(&keys.0).map_err(failed)?;
    Ok(root)
}

/// The fingerprint that is pinned in a data directory.
pub fn pinned_root(data: &Path) -> Result<Digest, IdentityError> {
    let path = root_pub(data);
    check_mode(&path, PUBLIC_MODE, 0o022)?;
    let text = read(&path)?;
    parse_hex(&text)
        .map(Digest)
        .ok_or(IdentityError::Malformed { path, expected: "a fingerprint of 64 hexadecimal digits" })
}

/// The 32 bytes that 64 hexadecimal digits stand for, whatever white space is around them.
pub(crate) fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok()?;
    let array = bytes.as_slice().try_into().ok();
    bytes.zeroize();
    array
}

/// The secret in a key file that nobody else can reach. The caller wipes it.
pub(super) fn read_secret(path: &Path) -> Result<[u8; 32], IdentityError> {
    check_mode(path, SECRET_MODE, 0o077)?;
    let text = Zeroizing::new(read(path)?);
    let malformed = || IdentityError::Malformed { path: path.to_owned(), expected: "64 hexadecimal digits" };
    parse_hex(&text).ok_or_else(malformed)
}

pub(super) fn read_host(path: &Path) -> Result<HostId, IdentityError> {
    check_mode(path, SECRET_MODE, 0o077)?;
    let malformed = |_| IdentityError::Malformed { path: path.to_owned(), expected: "a host id" };
    read(path)?.trim().parse().map_err(malformed)
}

fn read(path: &Path) -> Result<String, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    io::read_to_string(io::Read::take(file, KEY_FILE_BYTES_MAX)).map_err(failed)
}

fn check_mode(path: &Path, wanted: u32, forbidden: u32) -> Result<(), IdentityError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(IdentityError::Missing { path: path.to_owned() });
        }
        Err(source) => return Err(IdentityError::Read { path: path.to_owned(), source }),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(IdentityError::Mode { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), IdentityError> {
    let made = fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    made.map_err(|source| IdentityError::Write { path: path.to_owned(), source })
}

fn write_secret(path: &Path, secret: &[u8; 32]) -> Result<(), IdentityError> {
    let mut text = Zeroizing::new(HEXLOWER.encode(secret));
    text.push('\n');
    write_new(path, SECRET_MODE, &text)
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), IdentityError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| IdentityError::Write { path: path.to_owned(), source })
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, IdentityError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut *bytes).map_err(|_| IdentityError::Random)?;
    Ok(bytes)
}
