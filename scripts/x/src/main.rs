//! `cargo x`: the chores of this repository that have branches in them. What a shell can say in a line is in `scripts/`.
//!
//! [`deps`] and [`tidy`] also run as ordinary tests of this crate.

mod bench;
mod deps;
mod lab;
mod sabotage;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use clap::Parser;

/// Chores of the repository
#[derive(Parser)]
enum Chore {
    /// Measure OmniRun beside the raw tools that it is made of, and print tables
    Bench(bench::Bench),
    /// Compare what the crates depend on with docs/dependencies.md, in both directions
    Deps,
    /// Run our own monitor in the KVM lab; `scripts/kvm-lab` fetches what it needs
    Lab(lab::Lab),
    /// Read the source for what no compiler looks at
    Tidy,
    /// Break each promise's mechanism with its patch, and see its test fail
    Sabotage {
        /// Only patches whose name contains this
        only: Option<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let root = root();
    let complaints = match Chore::parse() {
        Chore::Bench(options) => return bench::run(options).map(|()| ExitCode::SUCCESS),
        Chore::Lab(options) => return lab::run(&root, &options).map(|()| ExitCode::SUCCESS),
        Chore::Deps => deps::complaints(&root)?,
        Chore::Tidy => tidy::complaints(&root)?,
        Chore::Sabotage { only } => return sabotage::run(&root, only.as_deref()),
    };
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The repository, two folders above this crate.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a command prints; an error with what it complained about when it fails.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?} failed: {errors}");
    String::from_utf8(done.stdout).with_context(|| format!("{command:?} does not print text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn none(complaints: anyhow::Result<Vec<String>>) {
        let complaints = complaints.expect("cargo and git answer");
        assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    }

    #[test]
    fn crates_depend_on_what_the_table_says() {
        none(deps::complaints(&root()));
    }

    #[test]
    fn the_source_is_tidy() {
        none(tidy::complaints(&root()));
    }
}
