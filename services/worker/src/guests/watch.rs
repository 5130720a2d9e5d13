//! Watching one guest: connect to its owner process, wait until it answers, wait until it is gone.

use std::time::Duration;

use omnirun_events::unit::Timestamp;
use omnirun_vmm_api::owner::{Stage, Status};
use tokio::sync::oneshot;

use super::{Guests, Life, Role};
use crate::owner::{self, Owner};
use crate::place::VmId;
use crate::template::Template;

/// Time between two looks at a guest that is starting or going, neither of which announces itself.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Time between two looks at an owner process that lives and does not answer.
const SILENT_LOOK_EVERY: Duration = Duration::from_millis(500);

/// Watches a guest until it has ended, in a task of its own.
pub fn start(guests: Guests, vm: VmId) {
    tokio::spawn(async move {
        while guests.places().is_alive(&vm) {
            match owner::connect(&guests.places().socket(&vm)).await {
                Ok((owner, closed)) => {
                    guests.note(&vm, |guest| guest.owner_pid = owner.pid());
                    follow(&guests, &vm, &owner, closed).await;
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        let left = guests.places().read_final(&vm);
        guests.note(&vm, |guest| {
            guest.life = Life::Ended(left);
            guest.owner = None;
        });
    });
}

/// Follows a guest as long as the connection lasts.
async fn follow(guests: &Guests, vm: &VmId, owner: &Owner, mut closed: oneshot::Receiver<()>) {
    loop {
        match owner.status().await {
            Ok(status) => {
                note(guests, vm, owner, &status);
                match status.stage {
                    Stage::Spare => start_when_needed(guests, vm, owner, &mut closed).await,
                    Stage::Starting => tokio::time::sleep(LOOK_EVERY).await,
                    _ => break,
                }
            }
            Err(_) => {
                tokio::time::sleep(SILENT_LOOK_EVERY).await;
                return;
            }
        }
        if !matches!(closed.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            return;
        }
    }
    // Its sender reports the end or is dropped with the connection: the same.
    let _ = closed.await;
    guests.note(vm, |guest| guest.owner = None);
    tokio::time::sleep(LOOK_EVERY).await;
}

/// A spare has no guest until it is given a role.
async fn start_when_needed(guests: &Guests, vm: &VmId, owner: &Owner, closed: &mut oneshot::Receiver<()>) {
    let mut changes = guests.changes();
    let needed = async {
        while guests.get(vm).is_some_and(|guest| matches!(guest.role, Role::Spare(_))) {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = closed => {}
        // One that refuses, or is gone, is asked for its status next, and found out.
        () = needed => drop(owner.start().await),
    }
}

fn note(guests: &Guests, vm: &VmId, owner: &Owner, status: &Status) {
    let end = status.end_ms.map(|end| Timestamp(end.0));
    let life = match status.stage {
        Stage::Spare | Stage::Starting => Life::Starting,
        Stage::Ready => Life::Ready,
        Stage::Claimed | Stage::Ending => Life::Claimed(end),
        Stage::Paused => Life::Paused(end),
    };
    let is_news = guests.get(vm).is_some_and(|guest| guest.life != life || guest.owner.is_none());
    if !is_news {
        return;
    }
    guests.note(vm, |guest| {
        guest.life = life;
        guest.owner = Some(owner.clone());
        guest.from = status.started_from;
        guest.template = Template::described(&status.template);
    });
}
