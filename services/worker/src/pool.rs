//! The warm pool: guests that wait for a claim, a few of each template, and the snapshots that they are restored from.
//!
//! An owner process restores its template's snapshot where there is a fitting one and boots otherwise. So a guest that had to be booted tells
//! that the snapshot is missing, and one is made then: see [`snapshots`].
//!
//! Beside each pool of guests that are restored by our own monitor waits a spare: an owner process in its jail that has made its machine, which is
//! most of a restore, and no guest yet. A guest that is taken from the pool is replaced from it at once, and a sandbox that finds the pool empty
//! gets it.

mod snapshots;

use std::time::{Duration, Instant};

use omnirun_vmm_api::MonitorChoice;
use omnirun_vmm_api::owner::{EndReason, StartFrom};

use crate::context::Context;
use crate::guests::{Guest, Kind, Life, Role};
use crate::place::{Origin, VmId};
use snapshots::{Outcome, Snapshots};

/// How long a guest may take to wait in the pool; see [`crate::start`].
const READY_WAIT_MAX: Duration = Duration::from_secs(75);

/// Time before the pool is filled again after a guest did not come to life.
const RETRY: Duration = Duration::from_secs(5);

/// How often the pool is looked at where nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Guests of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelf {
    /// How many are wanted.
    pub wanted: u32,
    /// How many there are, starting ones too.
    pub present: u32,
}

/// The shelf that needs a guest most, by its place: the emptiest in proportion. None where all are full.
pub fn emptiest(shelves: &[Shelf]) -> Option<usize> {
    let short = shelves.iter().enumerate().filter(|(_, shelf)| shelf.present < shelf.wanted);
    short
        .min_by_key(|(_, shelf)| u64::from(shelf.present) * 1000 / u64::from(shelf.wanted))
        .map(|(place, _)| place)
}

/// Keeps the pool filled, one guest after the other so that sandboxes that are being started come first.
pub async fn run(context: Context) {
    let mut changes = context.guests.changes();
    let mut snapshots = Snapshots::default();
    loop {
        changes.borrow_and_update();
        let kinds = kinds(&context);
        let shelves: Vec<Shelf> = kinds.iter().map(|(kind, wanted)| shelf(&context, kind, *wanted)).collect();
        if context.is_draining() {
            return;
        }
        snapshots.note_booted(booted(&context));
        if let Some(kind) = snapshots.due(Instant::now()) {
            let outcome = make_snapshot(&context, &kind).await;
            snapshots.tried(&kind, outcome, Instant::now());
        } else if let Some(place) = emptiest(&shelves) {
            if !fill(&context, &kinds[place].0).await {
                tokio::time::sleep(RETRY).await;
            }
        } else if let Some((kind, _)) =
            kinds.iter().find(|(kind, wanted)| lacks_spare(&context, kind, *wanted))
        {
            if !lay_in_spare(&context, kind).await {
                tokio::time::sleep(RETRY).await;
            }
        } else {
            let due = snapshots.next_due().map(|at| at.saturating_duration_since(Instant::now()));
            // At the latest when a snapshot is due.
            let changed = tokio::time::timeout(due.unwrap_or(LOOK_EVERY), changes.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return;
            }
        }
    }
}

fn kinds(context: &Context) -> Vec<(Kind, u32)> {
    let shape = context.config.default_shape;
    let offers = context.config.templates.iter();
    offers.map(|offer| (Kind { template: offer.template.clone(), shape }, offer.pool)).collect()
}

fn shelf(context: &Context, kind: &Kind, wanted: u32) -> Shelf {
    let (present, ready) = context.guests.pooled(kind);
    metrics::gauge!("omnirun_worker_pool_ready", "template" => kind.template.clone()).set(f64::from(ready));
    Shelf { wanted, present }
}

/// Living guests of the default shape that had to be booted.
fn booted(context: &Context) -> Vec<(VmId, Kind)> {
    let guests = context.guests.all().into_iter();
    guests
        .filter(|(_, guest)| guest.from == Some(StartFrom::Boot) && guest.role != Role::Snapshot)
        .filter_map(|(vm, guest)| Some((vm, guest.kind?)))
        .filter(|(_, kind)| kind.shape == context.config.default_shape)
        .collect()
}

/// Whether a spare of this kind is of use and not there. Of a guest that is booted the machine is the least part, and QEMU's cannot be made
/// beforehand.
fn lacks_spare(context: &Context, kind: &Kind, wanted: u32) -> bool {
    let spare = Role::Spare(kind.clone());
    let guests = context.guests.all();
    let is_restored =
        |guest: &Guest| guest.kind.as_ref() == Some(kind) && guest.from == Some(StartFrom::Snapshot);
    wanted > 0
        && context.config.monitor == MonitorChoice::Kvm
        && guests.iter().any(|(_, guest)| is_restored(guest))
        && !guests.iter().any(|(_, guest)| guest.role == spare)
}

/// Starts a spare and waits until it is one, or somebody's. Whether it came so far.
async fn lay_in_spare(context: &Context, kind: &Kind) -> bool {
    let Some(vm) = start(context, Role::Spare(kind.clone()), kind).await else { return false };
    let found = context.guests.until(READY_WAIT_MAX, |guests| match guests.get(&vm) {
        None | Some(Guest { life: Life::Ended(_), .. }) => Some(false),
        Some(Guest { owner, .. }) => owner.is_some().then_some(true),
    });
    let is_there = found.await.unwrap_or(false);
    if !is_there {
        tracing::warn!(template = kind.template, "a spare machine was not made");
    }
    is_there
}

async fn start(context: &Context, role: Role, kind: &Kind) -> Option<VmId> {
    let vm = VmId::random(Origin::Pool).ok()?;
    if let Err(error) = context.guests.start(&vm, role, kind).await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            template = kind.template,
            "cannot start a guest for the pool"
        );
        return None;
    }
    Some(vm)
}

/// Gets one more pool guest and waits until it is ready or somebody's. Whether it came to life.
async fn fill(context: &Context, kind: &Kind) -> bool {
    let vm = match context.guests.promote_spare(kind) {
        Some(vm) => vm,
        None => match start(context, Role::Pool(kind.clone()), kind).await {
            Some(vm) => vm,
            None => return false,
        },
    };
    let is_up = is_ready(context, &vm).await;
    if !is_up {
        tracing::warn!(template = kind.template, "a guest for the pool did not come to life");
    }
    is_up
}

async fn is_ready(context: &Context, vm: &VmId) -> bool {
    let found = context.guests.until(READY_WAIT_MAX, |guests| match guests.get(vm) {
        None | Some(Guest { life: Life::Ended(_), .. }) => Some(false),
        Some(Guest { life: Life::Starting, .. }) => None,
        Some(_) => Some(true),
    });
    found.await.unwrap_or(false)
}

/// Boots a guest that belongs to nobody and makes a snapshot of it. Without one, guests are booted: slower, and right.
async fn make_snapshot(context: &Context, kind: &Kind) -> Outcome {
    let Ok(vm) = VmId::random(Origin::Demand) else { return Outcome::Failed };
    let started = context.guests.start(&vm, Role::Snapshot, kind).await;
    let is_up = started.is_ok() && is_ready(context, &vm).await;
    let owner = context.guests.get(&vm).and_then(|guest| guest.owner);
    let is_made = match owner.filter(|_| is_up) {
        Some(owner) => owner.snapshot().await.is_ok(),
        None => false,
    };
    if is_made {
        tracing::info!(template = kind.template, "a template's snapshot was made");
    } else {
        tracing::warn!(template = kind.template, "a template's snapshot was not made: its guests are booted");
    }
    // Made or not, the guest is of no further use.
    if let Err(error) = context.guests.end(&vm, EndReason::NotNeeded).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a snapshot's guest has not ended");
    }
    if is_made { Outcome::Made } else { Outcome::Failed }
}

/// Ends every guest that waits.
pub async fn empty(context: &Context) {
    let all = context.guests.all().into_iter();
    let waiting =
        all.filter(|(_, guest)| matches!(guest.role, Role::Pool(_) | Role::Spare(_) | Role::Snapshot));
    let ended = waiting.map(|(vm, _)| async move {
        if context.guests.end(&vm, EndReason::NotNeeded).await.is_ok() {
            // What it leaves on the disk is removed by the next worker where it cannot be now.
            let _ = context.guests.remove(&vm);
        }
    });
    futures_util::future::join_all(ended).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shelves: &[(u32, u32)], expected: Option<usize>) {
        let shelves: Vec<Shelf> =
            shelves.iter().map(|(wanted, present)| Shelf { wanted: *wanted, present: *present }).collect();
        assert_eq!(emptiest(&shelves), expected);
    }

    #[test]
    fn the_emptiest_shelf_in_proportion_is_filled_first() {
        check(&[], None);
        check(&[(0, 0), (2, 2)], None);
        check(&[(2, 1), (4, 1)], Some(1));
        check(&[(2, 0), (1, 0)], Some(0));
        check(&[(1, 3), (2, 1)], Some(1));
    }
}
