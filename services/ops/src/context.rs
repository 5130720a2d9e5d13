//! What the commands need of the world. Which store there is, is not known here: `services/main.rs` hands in how to open it.

use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use omnirun_commands_api::Commands;
use omnirun_events::log::{Append, Read};
use omnirun_events::unit::Clock;

use crate::socket::SocketRead;

/// A store that was opened directly.
pub struct Opened {
    /// Reads it.
    pub read: Arc<dyn Read>,
    /// Appends to it; only `init` does.
    pub append: Arc<dyn Append>,
}

/// Opens the store of a data directory, or the one that the configuration names.
pub type Open = Box<dyn FnOnce(&Path) -> Pin<Box<dyn Future<Output = anyhow::Result<Opened>> + Send>> + Send>;

/// Connects to the commands service; called at most once.
pub type Connect =
    Box<dyn FnOnce(&Path) -> Pin<Box<dyn Future<Output = anyhow::Result<Arc<dyn Commands>>> + Send>> + Send>;

/// Makes more secrets in an unfinished directory of keys.
pub type MakeMore = Box<dyn FnOnce(&Path) -> std::io::Result<()> + Send>;

/// Which running processes are asked before the store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// The one that holds the store of the data directory, through `<data>/ops.sock`: for records and for read models.
    Holder,
    /// The roles whose state is in these directories, for their read models alone; records come from the store. The first that answers counts.
    Roles(Vec<PathBuf>),
}

/// What the commands need of the world.
pub struct Context {
    /// Who is asked what is in its memory.
    pub running: Running,
    /// Opens the store; called at most once, and not when [`Running::Holder`] answers.
    pub open: Open,
    /// Connects to the commands service that runs.
    pub connect: Connect,
    /// What `init` makes beside the signing keys, in the directory of keys before it counts: the master key of sealed fields.
    pub make_more: MakeMore,
    /// Where the read models' checkpoints are, for `replay` when nothing runs.
    pub checkpoints: Option<PathBuf>,
    /// The time, for records that `init` appends and for rates.
    pub clock: Clock,
    /// Where answers go.
    pub out: Box<dyn Write + Send>,
    /// Where the reason goes when there is no answer.
    pub errors: Box<dyn Write + Send>,
}

pub(crate) async fn open(data: &Path, context: &mut Context) -> anyhow::Result<Opened> {
    let used: Open = Box::new(|_| Box::pin(async { anyhow::bail!("the store was opened before") }));
    std::mem::replace(&mut context.open, used)(data).await
}

pub(crate) async fn connect(data: &Path, context: &mut Context) -> anyhow::Result<Arc<dyn Commands>> {
    let used: Connect =
        Box::new(|_| Box::pin(async { anyhow::bail!("the service was connected to before") }));
    std::mem::replace(&mut context.connect, used)(data).await
}

/// Where records are read from.
pub(crate) struct Source {
    pub read: Arc<dyn Read>,
    /// A running process, when one answers on its socket.
    pub live: Option<SocketRead>,
}

impl Source {
    pub(crate) async fn find(data: &Path, context: &mut Context) -> anyhow::Result<Self> {
        let roles = match std::mem::replace(&mut context.running, Running::Roles(Vec::new())) {
            Running::Roles(roles) => roles,
            Running::Holder => match SocketRead::connect(data).await {
                Some(live) => return Ok(Self { read: Arc::new(live.clone()), live: Some(live) }),
                None => Vec::new(),
            },
        };
        let mut live = None;
        for role in roles {
            live = SocketRead::connect(&role).await;
            if live.is_some() {
                break;
            }
        }
        Ok(Self { read: open(data, context).await?.read, live })
    }
}
