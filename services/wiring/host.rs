//! This machine as a host of sandboxes: what it offers, and its worker over whichever log there is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use omnirun_events::host::CUT_OFF_AFTER;
use omnirun_events::id::HostId;
use omnirun_events::signing::Signer;
use omnirun_events::unit::{Mebibytes, Shape, Vcpus};
use omnirun_projections::Directory;
use omnirun_runner::Live;
use omnirun_vmm::Settled;
use omnirun_vmm::kvm::jail::cgroup;
use omnirun_vmm::store::Template;
use omnirun_vmm_api::MonitorChoice;
use omnirun_worker::config::METER_EVERY;
use omnirun_worker::{Config, Offer, Parts, Stores, Worker, WorkerHandle};

use crate::process;

/// What a sandbox gets when its user names no shape, and the shape of pool guests.
const DEFAULT_SHAPE: Shape = Shape { vcpus: Vcpus(1), memory: Mebibytes(512) };

/// What this machine offers.
#[derive(Debug, Args)]
pub struct HostOptions {
    /// The template store that scripts/guest-image makes
    #[arg(long, env = "OMNIRUN_IMAGES", default_value = ".data/images")]
    pub images: PathBuf,
    /// Guests that wait ready for each template
    #[arg(long, env = "OMNIRUN_POOL", default_value_t = 1)]
    pub pool: u32,
    /// Sandboxes that run at once
    #[arg(long, env = "OMNIRUN_SANDBOXES_MAX", default_value_t = 16)]
    pub sandboxes_max: u32,
    /// What runs guests: auto, kvm or qemu. auto is kvm where it works, as `omnirun doctor` says, and qemu elsewhere
    #[arg(long, env = "OMNIRUN_MONITOR", default_value = "auto", value_parser = parse_monitor)]
    pub monitor: MonitorChoice,
}

fn parse_monitor(text: &str) -> Result<MonitorChoice, String> {
    match text {
        "auto" => Ok(MonitorChoice::Auto),
        "kvm" => Ok(MonitorChoice::Kvm),
        "qemu" => Ok(MonitorChoice::Qemu),
        _ => Err("it is one of auto, kvm and qemu".to_owned()),
    }
}

/// Where gateways reach the host.
#[derive(Debug, Clone)]
pub struct DataPath {
    /// Where it listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// `address:port` under which gateways reach it; none where that is the one it listens on.
    pub advertised: Option<String>,
}

/// A cgroup without a process that is older than this is nobody's: a guest is put into its own within milliseconds.
const CGROUP_AGE: Duration = Duration::from_secs(60);

/// Starts the worker with its state in `state`, an absolute directory that belongs to it.
pub async fn start(
    options: &HostOptions,
    state: &Path,
    stores: Stores,
    directory: Live<Directory>,
    (host, signer): (HostId, Signer),
    data_path: DataPath,
) -> Result<WorkerHandle> {
    let images = options.images.canonicalize().with_context(|| {
        format!("{} is missing; make the guest images with scripts/guest-image", options.images.display())
    })?;
    let monitor = settle(options.monitor).await?;
    tracing::info!(monitor = monitor.name(), "guests run in this monitor; omnirun doctor says why");
    if monitor == Settled::Kvm {
        say_what_cannot_be_limited(&images);
        let left = cgroup::tidy(CGROUP_AGE).context("cannot look for cgroups of guests that are gone")?;
        if left > 0 {
            tracing::warn!(count = left, "cgroups of guests whose keeper was killed were removed");
        }
    }
    let parts = Parts {
        stores,
        directory,
        signer,
        host,
        outbox_dir: state.join("outbox"),
        images_dir: images.clone(),
        state_dir: state.join("run"),
        executable: std::env::current_exe().context("cannot find this program's own file")?,
        clock: process::clock(),
        config: config(options, &images, monitor, data_path)?,
    };
    Worker::start(parts).await.context("cannot start the worker")
}

/// Once for all guests, each of which would have the same to say.
fn say_what_cannot_be_limited(images: &Path) {
    let missing = cgroup::missing(images);
    if !missing.is_empty() {
        tracing::warn!(
            missing = missing.join(", "),
            "this host cannot limit everything that a guest takes: it needs cgroups of version 2, root, and for io the images on one disk"
        );
    }
}

/// Which monitor all guests of this host get: found out once, and not by each of them.
pub async fn settle(choice: MonitorChoice) -> Result<Settled> {
    // Trying KVM blocks for some milliseconds, the first time.
    let settled = tokio::task::spawn_blocking(move || omnirun_vmm::settle(choice)).await;
    settled.context("the trial of KVM was interrupted")?.context("cannot run guests on this host")
}

fn config(options: &HostOptions, images: &Path, monitor: Settled, data_path: DataPath) -> Result<Config> {
    Ok(Config {
        listen: data_path.listen,
        advertised: data_path.advertised,
        sandboxes_max: options.sandboxes_max,
        vcpus_max: Vcpus(8),
        memory_max: Mebibytes(16 * 1024),
        default_shape: DEFAULT_SHAPE,
        monitor: monitor.choice(),
        monitor_name: monitor.name().to_owned(),
        templates: offers(images, options.pool)?,
        meter_every: METER_EVERY,
        cut_off_after: CUT_OFF_AFTER,
    })
}

/// Every template in the store, each with all of its files: a host that lacks one would win claims and fail them.
fn offers(images: &Path, pool: u32) -> Result<Vec<Offer>> {
    let names = Template::list(images);
    anyhow::ensure!(
        !names.is_empty(),
        "{} holds no template; make them with scripts/guest-image",
        images.display()
    );
    let offer = |template: String| {
        Template::open(images, &template)?;
        Ok(Offer { template, pool })
    };
    names.into_iter().map(offer).collect()
}
