//! What `omnirun up` is told on its command line or by environment variables.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::wiring::host::HostOptions;
use crate::wiring::metrics::MetricsOptions;
use crate::wiring::plans::PlanOptions;
use crate::wiring::web::WebOptions;

/// Options of `omnirun up`
#[derive(Debug, Args)]
pub struct Options {
    /// Directory of the log, the keys and everything else that is kept; made if missing
    #[arg(long, env = "OMNIRUN_DATA", default_value = ".data/up")]
    pub data: PathBuf,
    /// Where the HTTP API is
    #[command(flatten)]
    pub web: WebOptions,
    /// Mail server: smtp://user:password@host:587 (STARTTLS) or smtps://…:465; without it mail stays in memory, is shown on this terminal, and at /dev/mailbox to this machine alone
    #[arg(long, env = "OMNIRUN_SMTP", hide_env_values = true)]
    pub smtp: Option<String>,
    /// Sender of mail
    #[arg(long, env = "OMNIRUN_MAIL_FROM", default_value = "OmniRun <no-reply@localhost>")]
    pub mail_from: String,
    /// What this machine offers
    #[command(flatten)]
    pub host: HostOptions,
    /// Which plans
    #[command(flatten)]
    pub plans: PlanOptions,
    /// Where metrics are shown, beside `/metrics` of the API
    #[command(flatten)]
    pub metrics: MetricsOptions,
}

impl Options {
    /// Makes the data directory, for its owner alone, and answers its absolute path.
    pub fn make_data(&self) -> Result<PathBuf> {
        let failed = || format!("cannot make the data directory {}", self.data.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.data).with_context(failed)?;
        self.data.canonicalize().with_context(failed)
    }
}
