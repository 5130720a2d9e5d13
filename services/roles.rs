//! The roles as processes of their own, over NATS JetStream: what `up` does by calls goes over the bus here.
//!
//! ```text
//!   gateway ──cmd.>──▶ commands ──mail.send──▶ mailer        each follows EVENTS by itself; workers take requests from a queue
//!   projector ──cmd.billing.>──▶ commands                    what time decides about bills
//!   <data>/root.pub, <data>/keys/     only the keys of the role      <data>/<role>/     its checkpoints, ops.sock, outbox, guests
//! ```
//!
//! Streams are not made here: `omnirun ops streams apply` makes them, once.

pub mod commands;
pub mod gateway;
pub mod mailer;
pub mod projector;
pub mod worker;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

/// Where a role's keys and state are.
#[derive(Debug, Args)]
pub struct DataOptions {
    /// Directory with root.pub and the role's own files in keys/; its state goes below it
    #[arg(long, env = "OMNIRUN_DATA", default_value = ".data")]
    pub data: PathBuf,
}

impl DataOptions {
    /// Its absolute path; it must exist.
    pub fn path(&self) -> Result<PathBuf> {
        let failed = || {
            format!(
                "cannot use the data directory {}; make the keys with omnirun ops init, or copy this role's there",
                self.data.display()
            )
        };
        self.data.canonicalize().with_context(failed)
    }
}
