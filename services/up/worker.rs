//! The worker of `omnirun up`: this machine as the one host.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use omnirun_events::id::HostId;
use omnirun_events::signing::Signer;
use omnirun_events::unit::{Clock, Mebibytes, Shape, Vcpus};
use omnirun_projections::Directory;
use omnirun_runner::Live;
use omnirun_sled::EmbeddedLog;
use omnirun_vmm_api::MonitorChoice;
use omnirun_worker::config::METER_EVERY;
use omnirun_worker::{Config, Offer, Parts, Stores, Worker, WorkerHandle};

use super::Options;

/// What a sandbox gets when its user names no shape, and the shape of pool guests.
const DEFAULT_SHAPE: Shape = Shape { vcpus: Vcpus(1), memory: Mebibytes(512) };

/// Starts the worker over this process's log.
pub async fn start(
    options: &Options,
    data: &Path,
    store: Arc<EmbeddedLog>,
    directory: Live<Directory>,
    (host, signer): (HostId, Signer),
    clock: &Clock,
) -> Result<WorkerHandle> {
    let images = options.images.canonicalize().with_context(|| {
        format!("{} is missing; make the guest images with scripts/guest-image", options.images.display())
    })?;
    let parts = Parts {
        stores: Stores { read: store.clone(), append: store.clone(), queue: store },
        directory,
        signer,
        host,
        outbox_dir: data.join("outbox"),
        images_dir: images.clone(),
        state_dir: data.join("run"),
        executable: std::env::current_exe().context("cannot find this program's own file")?,
        clock: clock.clone(),
        config: config(options, &images)?,
    };
    Worker::start(parts).await.context("cannot start the worker")
}

fn config(options: &Options, images: &Path) -> Result<Config> {
    Ok(Config {
        listen: ([127, 0, 0, 1], 0).into(),
        advertised: None,
        sandboxes_max: options.sandboxes_max,
        vcpus_max: Vcpus(8),
        memory_max: Mebibytes(16 * 1024),
        default_shape: DEFAULT_SHAPE,
        monitor: MonitorChoice::Auto,
        monitor_name: "qemu-tcg".to_owned(),
        templates: offers(images, options.pool)?,
        meter_every: METER_EVERY,
    })
}

/// Every template in the store.
fn offers(images: &Path, pool: u32) -> Result<Vec<Offer>> {
    let directory = images.join("templates");
    let failed =
        || format!("cannot list {}; make the guest images with scripts/guest-image", directory.display());
    let mut offers = Vec::new();
    for entry in std::fs::read_dir(&directory).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if entry.path().join("template.json").exists()
            && let Ok(template) = entry.file_name().into_string()
        {
            offers.push(Offer { template, pool });
        }
    }
    anyhow::ensure!(
        !offers.is_empty(),
        "{} holds no template; make them with scripts/guest-image",
        directory.display()
    );
    offers.sort_by(|a, b| a.template.cmp(&b.template));
    Ok(offers)
}
