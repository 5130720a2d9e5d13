//! What can be asked at the operator's terminal.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use omnirun_commands_api::command::Whose;
use omnirun_events::billing::Correction;
use omnirun_events::id::{AccountId, HostId, KeyId};
use omnirun_events::log::Position;
use omnirun_events::subject::Log;
use omnirun_events::unit::Timestamp;

use crate::bills::By;
use crate::retention::RetentionCommand;
use crate::text;

/// Arguments of `omnirun ops`.
#[derive(Debug, Args)]
pub struct OpsArgs {
    /// Directory with the keys, and with the embedded log if that is used
    #[arg(long, global = true, env = "OMNIRUN_DATA", default_value = ".data")]
    pub data: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: OpsCommand,
}

/// What an operator can ask.
#[derive(Debug, Subcommand)]
pub enum OpsCommand {
    /// Make the keys of an installation, pin the root key, and enrol the others on the log
    Init,
    /// Print stored records, oldest first, one line each
    Tail {
        /// Go on with records as they are appended
        #[arg(long)]
        follow: bool,
        /// Subjects to print, in NATS's words: `*` is one token, a last `>` the rest
        #[arg(long, default_value = ">")]
        filter: String,
        /// First position to print; without it, the last twenty positions
        #[arg(long)]
        from: Option<u64>,
        /// Log to print
        #[arg(long, default_value = "EVENTS", value_parser = text::parse_log)]
        log: Log,
        /// Print one JSON object for each record
        #[arg(long)]
        json: bool,
    },
    /// Print one stored record as JSON; sealed fields stay sealed
    Show {
        /// Its position, such as `12` or `USAGE_03:12`
        #[arg(value_parser = text::parse_position)]
        position: Position,
    },
    /// Rebuild a read model from the log alone and compare it with the live one at the same positions
    Replay {
        /// The read model: `directory`, `usage` or `billing`
        view: String,
        /// The root key's fingerprint, or a file with it; without it, the one pinned in --data
        #[arg(long)]
        root_key: Option<String>,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// The master key that wraps every data key, and the keys that sign
    Keys {
        /// What to do with it
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// The machines that run sandboxes
    Host {
        /// What became of one
        #[command(subcommand)]
        command: HostCommand,
    },
    /// What goes because it is as old as it may become; it goes every hour by itself
    Retention {
        /// What to do with it
        #[command(subcommand)]
        command: RetentionCommand,
    },
    /// What a person asked for by mail, and what they pay
    Account {
        /// What they asked for
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// Compute the closed months of an account's export again, from the records in it; no store is needed
    Statement {
        /// The export
        #[arg(long)]
        from: PathBuf,
        /// One month alone, such as 2026-11: the month in which it begins
        #[arg(long)]
        month: Option<String>,
        /// The root key's fingerprint, or a file with it; without it, the one pinned in --data
        #[arg(long)]
        root_key: Option<String>,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check every kept record: encoding, chains, gaps, signatures back to the root key, roles
    Verify {
        /// The root key's fingerprint, or a file with it. Not taken from --data: who changed the log could have changed it too
        #[arg(long)]
        root_key: String,
        /// Check this export of an account instead, without any store
        #[arg(long)]
        export: Option<PathBuf>,
        /// Check this receipt of an erasure instead, as it was mailed, and what the log says of that erasure
        #[arg(long, conflicts_with = "export")]
        receipt: Option<PathBuf>,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Wrap every data key under a new epoch and overwrite the old one; asks the running commands service
    Rotate,
    /// Believe a signing key no more, such as a stolen one; needs keys/root.key, and the embedded log not in use. What it signed before stays valid
    Retire {
        /// The key, as `tail` names it
        key: KeyId,
    },
}

/// What can become of a host.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Give up a host that will not come back: its sandboxes end, and their accounts have their places and their time again
    Lost {
        /// The host's id, as `tail --filter 'sys.host.>'` names it
        host: HostId,
        /// What you are called
        #[arg(long)]
        operator: String,
        /// Why, such as the number of the incident
        #[arg(long)]
        reason: String,
    },
}

/// What can be done for a person.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Erase an account and everything of it, as DELETE /account does. It cannot be undone
    Erase {
        /// The account's id, or its address
        #[arg(value_name = "ACCOUNT", value_parser = text::parse_whose)]
        whose: Whose,
        /// What you are called
        #[arg(long)]
        operator: String,
        /// Why, such as the number of the request; never who asked
        #[arg(long)]
        reason: String,
    },
    /// Put an account on another plan from its next month on; asks the running commands service
    Plan {
        /// The account's id
        account: AccountId,
        /// The plan's name in the plans file
        plan: String,
        /// Who, and why
        #[command(flatten)]
        by: By,
    },
    /// Say that a closed month costs less or more than its statement says; the statement stands
    Correct {
        /// The account's id
        account: AccountId,
        /// First day of the statement's month, such as 2026-11-23
        #[arg(value_parser = text::parse_day)]
        start: Timestamp,
        /// Less (credit) or more (charge)
        #[arg(value_parser = text::parse_correction)]
        kind: Correction,
        /// By how many micro-cents; a cent is 1000000
        micro_cents: u64,
        /// Who, and why
        #[command(flatten)]
        by: By,
    },
    /// Write everything that is held about an account to a signed archive; asks the running commands service
    Export {
        /// The account's id, or its address
        #[arg(value_name = "ACCOUNT", value_parser = text::parse_whose)]
        whose: Whose,
        /// The file to write; it must not exist
        #[arg(long)]
        to: PathBuf,
        /// What you are called
        #[arg(long)]
        operator: String,
        /// Why, such as the number of the request; never who asked
        #[arg(long)]
        reason: String,
    },
}
