//! The gateway as a value: what it is made of and what requests share.

use std::sync::Arc;
use std::time::Duration;

use omnirun_billing::{Billing, Plans};
use omnirun_commands_api::Commands;
use omnirun_events::log::Read;
use omnirun_events::signing::Signer;
use omnirun_events::unit::{Clock, Seconds, Timestamp};
use omnirun_projections::{Directory, Usage};
use omnirun_runner::Live;
use zeroize::Zeroizing;

use crate::ask::CatchUp;
use crate::auth::last_used::LastUsed;
use crate::config::Config;
use crate::data_path::DataPath;
use crate::routes::export::Exports;
use crate::sight::Sight;

/// Renders the metrics of the process in Prometheus' text format.
pub type MetricsHandle = metrics_exporter_prometheus::PrometheusHandle;

/// What a gateway is made of. The wiring in `services/main.rs` fills it in.
pub struct Parts {
    /// Where commands go.
    pub commands: Arc<dyn Commands>,
    /// The log, for its last position alone: a gateway catches up to it before it refuses an unknown credential.
    pub reader: Arc<dyn Read>,
    /// Accounts, credentials, sandboxes, hosts.
    pub directory: Live<Directory>,
    /// Meters.
    pub usage: Live<Usage>,
    /// What accounts are billed by, and their closed months.
    pub billing: Live<Billing>,
    /// What months are rated by.
    pub plans: Arc<Plans>,
    /// The gateway's key, of [`omnirun_events::Role::Gateway`]: signs capabilities.
    pub signer: Signer,
    /// Turns idempotency keys into command ids. The same on every gateway, or a retry through another one is a new wish.
    pub secret: [u8; 32],
    /// The time.
    pub clock: Clock,
    /// Renders `/metrics`; without it that route answers 404.
    pub metrics: Option<MetricsHandle>,
    /// The mails of an in-memory mailer; only where it is the one in use. Without it `/dev/mailbox` answers 404.
    pub mailbox: Option<Arc<dyn Mailbox>>,
    /// What the operator set.
    pub config: Config,
}

/// A mail as `/dev/mailbox` shows it.
#[derive(Clone)]
pub struct ShownMail {
    /// The address.
    pub to: String,
    /// The subject line.
    pub subject: String,
    /// The text.
    pub text: String,
    /// The code in it, as it is typed, if it has one.
    pub code: Option<String>,
    /// When it was sent.
    pub at: Timestamp,
}

impl std::fmt::Debug for ShownMail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShownMail([redacted {} bytes])", self.text.len())
    }
}

/// The mails that an in-memory mailer holds.
pub trait Mailbox: Send + Sync {
    /// All of them, newest first.
    fn mails(&self) -> Vec<ShownMail>;
}

/// The gateway.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) app: App,
}

impl Gateway {
    /// A gateway of these parts. It starts nothing: see [`Self::router`] and [`Self::serve`].
    pub fn new(parts: Parts) -> Self {
        let Parts {
            commands,
            reader,
            directory,
            usage,
            billing,
            plans,
            signer,
            secret,
            clock,
            metrics,
            mailbox,
            config,
        } = parts;
        let data_path = DataPath::new(signer, clock.clone(), &config.times);
        let catch_up = CatchUp::default();
        let sight = Sight::new(clock(), config.times.without_log);
        let last_used = LastUsed::new(clock());
        let secret = Zeroizing::new(secret);
        let openapi = crate::router::document();
        let shared = Shared {
            commands,
            reader,
            directory,
            usage,
            billing,
            plans,
            secret,
            clock,
            metrics,
            mailbox,
            config,
            data_path,
            catch_up,
            last_used,
            exports: Arc::default(),
            sight,
            openapi,
        };
        Self { app: Arc::new(shared) }
    }
}

/// What every request has at hand.
pub(crate) type App = Arc<Shared>;

pub(crate) struct Shared {
    pub commands: Arc<dyn Commands>,
    pub reader: Arc<dyn Read>,
    pub directory: Live<Directory>,
    pub usage: Live<Usage>,
    pub billing: Live<Billing>,
    pub plans: Arc<Plans>,
    pub secret: Zeroizing<[u8; 32]>,
    pub clock: Clock,
    pub metrics: Option<MetricsHandle>,
    pub mailbox: Option<Arc<dyn Mailbox>>,
    pub config: Config,
    pub data_path: DataPath,
    pub catch_up: CatchUp,
    pub last_used: LastUsed,
    pub exports: Arc<Exports>,
    pub sight: Sight,
    pub openapi: String,
}

impl Shared {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// A configured time as the standard library's type.
pub(crate) fn duration(seconds: Seconds) -> Duration {
    Duration::from_secs(u64::from(seconds.0))
}
