//! The corpus that a run starts with. Each target makes its own, in code: what an input means then stays readable, and no
//! seed outlives the form of the inputs.

use std::{env, fs, path::PathBuf, process::exit};

/// The folder that a target writes its seeds into instead of running.
const FOLDER: &str = "OMNIRUN_FUZZ_SEEDS";

/// Writes the seeds, named `seed-<name>`, and ends the process, if that is what it was started for.
pub fn write_if_asked(seeds: impl IntoIterator<Item = (&'static str, Vec<u8>)>) {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else { return };
    for (name, bytes) in seeds {
        fs::write(folder.join(format!("seed-{name}")), bytes).expect("the folder can be written");
    }
    exit(0);
}
