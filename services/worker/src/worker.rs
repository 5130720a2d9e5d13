//! Starting and stopping a worker: wiring, in order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use omnirun_events::keys::Digest;
use tokio::task::JoinSet;

use crate::announce::{self, Announcement};
use crate::caught_up;
use crate::certificate::{Certificate, CertificateError};
use crate::claim;
use crate::config::{Config, Parts};
use crate::context::{Context, Shared};
use crate::guests::{Guests, Recipe};
use crate::meter;
use crate::outbox::publish::Publisher;
use crate::outbox::{Outbox, OutboxError};
use crate::place::Places;
use crate::pool;
use crate::reconcile;
use crate::serve;
use crate::template::{Template, TemplateError};

/// How long a stopping worker tries to get the outbox onto the log. What is left is published at the next start.
const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a stopped worker waits for whoever still holds the outbox.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a drained host may take to end its sandboxes.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of the state directory's path, at most: the path of a unix socket has 107 (unix(7)), and up to 50 come below the directory.
const STATE_DIR_BYTES_MAX: usize = 107 - 50;

/// A worker that cannot start. Nothing runs then that did not before.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory is not absolute.
    #[error("{path} must be an absolute path: owner processes live in another directory")]
    Relative {
        /// The directory.
        path: PathBuf,
    },
    /// The guests' sockets could not be named.
    #[error("{path} is too long: a state directory has at most {STATE_DIR_BYTES_MAX} bytes")]
    TooLong {
        /// The directory.
        path: PathBuf,
    },
    /// A template is missing or broken.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The outbox cannot be used.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The guests' directory cannot be used.
    #[error("cannot use the state directory {path}")]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data path has no certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The data path's port cannot be had.
    #[error("cannot listen on {at}: choose a free port")]
    Listen {
        /// The address.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What becomes of the sandboxes when a worker stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// They live on under their owner processes for [`omnirun_events::host::UNATTENDED_AFTER`]; the next worker of this host takes them over.
    Leave,
    /// They end, their ends are reported, and the host says that it has left.
    Drain,
}

/// Starts workers.
pub struct Worker;

/// A running worker. Dropping it stops it at once; guests live on, pool guests too, which the next worker ends.
pub struct WorkerHandle {
    context: Context,
    address: SocketAddr,
    certificate: Digest,
    claims: JoinSet<()>,
    tasks: JoinSet<()>,
}

impl Worker {
    /// Starts a worker: takes over the guests that live, listens, announces the host and begins to claim. The log need not be reachable.
    /// Call it within a tokio runtime.
    pub async fn start(parts: Parts) -> Result<WorkerHandle, StartError> {
        let certificate = Certificate::generate()?;
        let at = parts.config.listen;
        let (listener, address) =
            serve::listen(at).await.map_err(|source| StartError::Listen { at, source })?;
        let advertised = parts.config.advertised.clone().unwrap_or_else(|| address.to_string());
        let context = context(parts)?;
        let announcement = Announcement { address: advertised, certificate: certificate.fingerprint };
        announcement.join(&context).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(publisher(&context).run());
        tasks.spawn(reconcile::run(context.clone()));
        tasks.spawn(serve::run(context.clone(), listener, certificate.acceptor));
        tasks.spawn(meter::run(context.clone()));
        tasks.spawn(caught_up::run(context.clone()));
        tasks.spawn(pool::run(context.clone()));
        tasks.spawn(announcement.clone().stay(context.clone()));
        let mut claims = JoinSet::new();
        claims.spawn(claim_once_joined(context.clone(), announcement));
        Ok(WorkerHandle { context, address, certificate: certificate.fingerprint, claims, tasks })
    }
}

/// A sandbox that is claimed before gateways know where its host is would be out of their reach.
async fn claim_once_joined(context: Context, announcement: Announcement) {
    announcement.joined(&context).await;
    claim::run(context).await;
}

fn context(parts: Parts) -> Result<Context, StartError> {
    for path in [&parts.images_dir, &parts.state_dir] {
        if !path.is_absolute() {
            return Err(StartError::Relative { path: path.clone() });
        }
    }
    if parts.state_dir.as_os_str().len() > STATE_DIR_BYTES_MAX {
        return Err(StartError::TooLong { path: parts.state_dir });
    }
    let offers = parts.config.templates.iter();
    let templates = offers.map(|offer| {
        let template = Template::open(&parts.images_dir, &offer.template)?;
        Ok((template.name.clone(), template))
    });
    let templates = templates.collect::<Result<_, TemplateError>>()?;
    let outbox = Outbox::open(&parts.outbox_dir)?;
    let failed = |source| StartError::State { path: parts.state_dir.clone(), source };
    let places = Places::open(&parts.state_dir).map_err(failed)?;
    let Config { monitor, .. } = parts.config;
    let recipe = Recipe { executable: parts.executable, images: parts.images_dir, monitor };
    let guests = Guests::adopt(places, recipe).map_err(failed)?;
    Ok(Context::new(Shared {
        stores: parts.stores,
        directory: parts.directory,
        signer: Arc::new(parts.signer),
        host: parts.host,
        clock: parts.clock,
        config: parts.config,
        templates,
        guests,
        outbox,
        is_draining: AtomicBool::new(false),
    }))
}

fn publisher(context: &Context) -> Publisher {
    Publisher {
        outbox: context.outbox.clone(),
        read: context.stores.read.clone(),
        append: context.stores.append.clone(),
        directory: context.directory.clone(),
        signer: context.signer.clone(),
        meters: Default::default(),
    }
}

impl WorkerHandle {
    /// Where the data path listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// SHA-256 of the data path's certificate, as HostJoined says it.
    pub fn certificate(&self) -> Digest {
        self.certificate
    }

    /// Stops in order: takes no more requests, ends pool guests, does with the sandboxes as it is told, and publishes what it can in a few
    /// seconds. Nothing is lost that it cannot publish.
    pub async fn stop(mut self, stop: Stop) {
        self.claims.shutdown().await;
        if stop == Stop::Drain {
            self.drain().await;
        }
        let outbox = &self.context.outbox;
        let mut changes = outbox.changes();
        let published = async {
            while !outbox.is_empty() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(PUBLISH_WAIT_MAX, published).await.is_err() {
            tracing::warn!("what this host has to say waits in its outbox for the next start");
        }
        self.tasks.shutdown().await;
        pool::empty(&self.context).await;
        let outbox = self.context.outbox.clone();
        drop(self);
        // Tasks of tasks end a little later, and a write that has begun is finished; the next worker needs the files.
        if tokio::time::timeout(CLOSE_WAIT_MAX, outbox.closed()).await.is_err() {
            tracing::warn!(
                "something still holds the outbox; another worker cannot use it before this process ends"
            );
        }
    }

    async fn drain(&self) {
        let context = &self.context;
        context.is_draining.store(true, Ordering::SeqCst);
        // Wakes the reconciler, which ends and reports them.
        pool::empty(context).await;
        let is_empty = context.directory.until(DRAIN_WAIT_MAX, |directory| {
            directory.sandboxes.on(context.host).next().is_none().then_some(())
        });
        if is_empty.await.is_err() {
            tracing::error!("sandboxes of this host did not end; it does not say that it has left");
            return;
        }
        if let Err(error) = announce::leave(context, self.certificate).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the host could not say that it has left"
            );
        }
    }
}
