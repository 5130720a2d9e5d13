//! Keys for nats-server: one seed for each user that nats.conf names.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nkeys::KeyPair;

use super::state::make_directory;

/// The users in nats.conf.
const USERS: [&str; 6] = ["commands", "gateway", "worker", "projector", "mailer", "ops"];

/// Makes `<directory>/<user>.nk` for every user that has none, each for its owner alone, and answers the lines that nats-server
/// needs in its environment. Twice changes nothing and answers the same.
pub fn make(directory: &Path) -> Result<String> {
    let directory = make_directory(directory)?;
    let mut lines = String::new();
    for user in USERS {
        let path = seed_file(&directory, user);
        if !path.exists() {
            write(&path, &KeyPair::new_user()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let pair = KeyPair::from_seed(&read_seed(&path)?);
        let pair = pair.ok().with_context(|| format!("{} holds no nkey seed", path.display()))?;
        lines += &format!("OMNIRUN_NKEY_{}={}\n", user.to_uppercase(), pair.public_key());
    }
    Ok(lines)
}

fn seed_file(directory: &Path, user: &str) -> PathBuf {
    directory.join(format!("{user}.nk"))
}

fn write(path: &Path, pair: &KeyPair) -> std::io::Result<()> {
    let seed = pair.seed().expect("a new pair has its seed");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{seed}")?;
    file.sync_all()
}

/// The seed in a file that nobody else can reach.
pub fn read_seed(path: &Path) -> Result<String> {
    let failed = || format!("cannot read the nkey in {}; make one with omnirun ops nkeys", path.display());
    let mode = std::fs::metadata(path).with_context(failed)?.permissions().mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "{} has mode {mode:03o}, so that others can reach it; run: chmod 600 {}",
        path.display(),
        path.display()
    );
    Ok(std::fs::read_to_string(path).with_context(failed)?.trim().to_owned())
}
