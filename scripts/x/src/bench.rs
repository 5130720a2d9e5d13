//! `cargo x bench`: OmniRun beside the raw tools that it is made of, both in one run. Prints tables of plain text and asserts nothing: what
//! the numbers are depends on the machine and on what else it does, ratios much less so.

mod append;
mod create;
mod history;
pub mod numbers;
mod rebuild;

use anyhow::Result;
use clap::{Args, Subcommand};

/// What to measure; everything where no part is named
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Appending to each store, beside raw sled and raw JetStream that confirm as durably
    Append,
    /// Rebuilding the directory from the log, beside reading the same records and doing nothing with them
    Rebuild(rebuild::Options),
    /// From asking for a sandbox to its first output, over HTTP, with the real program
    Create(create::Options),
}

/// Measures and prints.
pub fn run(bench: Bench) -> Result<()> {
    println!("{}", numbers::machine());
    tokio::runtime::Runtime::new()?.block_on(async {
        match bench.part {
            Some(Part::Append) => append::run().await,
            Some(Part::Rebuild(options)) => rebuild::run(&options).await,
            Some(Part::Create(options)) => create::run(&options).await,
            None => {
                append::run().await?;
                rebuild::run(&rebuild::Options::default()).await?;
                create::run(&create::Options::default()).await
            }
        }
    })
}
