//! `omnirun ops` on the embedded log: how its store is opened when no running process answers.

use std::path::Path;
use std::sync::Arc;

use omnirun_ops::{Context, Exit, Opened, OpsArgs};

use crate::{process, up};

/// Does what the operator asked.
pub async fn run(args: OpsArgs) -> Exit {
    let checkpoints = Some(up::views_of(&args.data));
    let context = Context {
        open: Box::new(|data| {
            let data = data.to_owned();
            Box::pin(async move { open(&data) })
        }),
        make_more: Box::new(up::make_master_key),
        checkpoints,
        clock: process::clock(),
        out: Box::new(std::io::stdout()),
        errors: Box::new(std::io::stderr()),
    };
    omnirun_ops::run(args, context).await
}

fn open(data: &Path) -> anyhow::Result<Opened> {
    let store = Arc::new(up::open_store(data)?);
    Ok(Opened { read: store.clone(), append: store })
}
