//! `cargo x bench`: OmniRun beside the raw tools that it is made of, both in one run. Prints tables of plain text and asserts nothing: what
//! the numbers are depends on the machine and on what else it does, ratios much less so.

mod append;
mod bill;
mod create;
mod history;
pub mod numbers;
mod rebuild;
mod revoke;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

/// What to measure; everything where no part is named
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Appending to each store, beside raw sled and raw JetStream that confirm as durably
    Append(append::Options),
    /// Rebuilding the directory from the log, beside reading the same records and doing nothing with them
    Rebuild(rebuild::Options),
    /// Folding what sandboxes ran into bills: cost of an event and memory, from ten thousand events on
    Bill(bill::Options),
    /// How long a deleted token is still good at another gateway
    Revoke(revoke::Options),
    /// From asking for a sandbox to its first output, over HTTP, with the real program
    Create(create::Options),
}

/// A store, to measure that one alone
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    Sled,
    Jetstream,
}

impl Store {
    /// Whether this one is to be measured when `only` was asked for.
    fn is_wanted(self, only: Option<Self>) -> bool {
        only.is_none_or(|only| only == self)
    }
}

/// Measures and prints.
pub fn run(bench: Bench) -> Result<()> {
    println!("{}", numbers::machine());
    tokio::runtime::Runtime::new()?.block_on(async {
        match bench.part {
            Some(Part::Append(options)) => append::run(&options).await,
            Some(Part::Rebuild(options)) => rebuild::run(&options).await,
            Some(Part::Bill(options)) => bill::run(&options),
            Some(Part::Revoke(options)) => revoke::run(&options).await,
            Some(Part::Create(options)) => create::run(&options).await,
            None => {
                append::run(&append::Options::default()).await?;
                rebuild::run(&rebuild::Options::default()).await?;
                bill::run(&bill::Options::default())?;
                revoke::run(&revoke::Options::default()).await?;
                create::run(&create::Options::default()).await
            }
        }
    })
}
