//! The guests of this host and how far each has come: what [`crate::reconcile`] compares with the log.
//!
//! One task watches each guest from its start, or from the worker's, until its last process is gone. Nothing here decides anything.

mod watch;

mod end;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use omnirun_events::host::UNATTENDED_AFTER;
use omnirun_events::id::SandboxId;
use omnirun_events::unit::{Shape, Timestamp};
use omnirun_vmm_api::owner::{Final, OwnerSpec, StartFrom, StartWhen, boot_limit_default};
use omnirun_vmm_api::{MemoryBacking, MemoryMib, MonitorChoice, Purpose, Vcpus};
use rustix::process::Pid;
use tokio::sync::watch as channel;

use crate::owner::Owner;
use crate::owner::spawn::{SpawnError, spawn};
use crate::place::{Places, VmId};
use crate::template::Template;

/// What a guest is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It waits in the pool, for any sandbox of this template and shape.
    Pool(Kind),
    /// There is no guest yet, but all that one of this template and shape needs: it waits for a role.
    Spare(Kind),
    /// It is a sandbox's.
    Sandbox(SandboxId),
    /// A template's snapshot is made of it.
    Snapshot,
    /// An earlier worker started it and it is no sandbox's.
    Stray,
}

/// What a guest is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Name of its template.
    pub template: String,
    /// Its shape.
    pub shape: Shape,
}

/// How far a guest has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Booting, being restored, or not asked yet.
    Starting,
    /// Its agent answers; it is not personalised.
    Ready,
    /// It is personalised, and ends at this moment.
    Claimed(Option<Timestamp>),
    /// The same, and it stands still.
    Paused(Option<Timestamp>),
    /// Its processes are gone. What it left, or none where its owner process was killed.
    Ended(Option<Final>),
}

impl Life {
    /// Whether a process of it may live.
    pub const fn is_alive(&self) -> bool {
        !matches!(self, Self::Ended(_))
    }
}

/// One guest.
#[derive(Clone)]
pub struct Guest {
    /// What it is there for.
    pub role: Role,
    /// How far it is.
    pub life: Life,
    /// The connection to its owner process, while there is one.
    pub owner: Option<Owner>,
    /// Whether it was booted or restored, once known.
    pub from: Option<StartFrom>,
    /// What exactly it runs, once known: a template may be made anew while its guests live.
    pub template: Option<Template>,
    /// The process that listens at its owner's socket, once that was reached.
    pub owner_pid: Option<Pid>,
    /// What it is made of, where this worker started it.
    pub kind: Option<Kind>,
    /// When it was decided to end it.
    pub ending_since: Option<Timestamp>,
}

/// How guests are started here.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The program that is an owner process with the argument `vmm`.
    pub executable: PathBuf,
    /// The template store.
    pub images: PathBuf,
    /// Which monitor.
    pub monitor: MonitorChoice,
}

fn find(table: &HashMap<VmId, Guest>, role: &Role, life: &Life) -> Option<VmId> {
    table.iter().find(|(_, guest)| guest.role == *role && guest.life == *life).map(|(vm, _)| vm.clone())
}

/// Every guest of this host. Clones share the table.
#[derive(Clone)]
pub struct Guests {
    shared: Arc<Shared>,
}

struct Shared {
    places: Places,
    recipe: Recipe,
    table: Mutex<HashMap<VmId, Guest>>,
    changes: channel::Sender<u64>,
}

impl Guests {
    /// The guests that are on the disk, whoever started them: living ones are watched from here on.
    pub fn adopt(places: Places, recipe: Recipe) -> std::io::Result<Self> {
        places.remove_dangling()?;
        let bound: HashMap<VmId, SandboxId> =
            places.bindings()?.into_iter().map(|(sandbox, vm)| (vm, sandbox)).collect();
        let found = places.guests()?;
        let guests = Self {
            shared: Arc::new(Shared {
                places,
                recipe,
                table: Mutex::default(),
                changes: channel::Sender::new(0),
            }),
        };
        for vm in found {
            let role = bound.get(&vm).map_or(Role::Stray, |sandbox| Role::Sandbox(*sandbox));
            guests.insert(&vm, role, None);
        }
        Ok(guests)
    }

    fn insert(&self, vm: &VmId, role: Role, kind: Option<Kind>) {
        let guest = Guest {
            role,
            life: Life::Starting,
            owner: None,
            from: None,
            template: None,
            owner_pid: None,
            kind,
            ending_since: None,
        };
        self.table().insert(vm.clone(), guest);
        self.changed();
        watch::start(self.clone(), vm.clone());
    }

    /// Starts an owner process for a new guest. Before this returns, a sandbox's guest is noted as its.
    pub async fn start(&self, vm: &VmId, role: Role, kind: &Kind) -> Result<(), SpawnError> {
        let Shared { places, recipe, .. } = &*self.shared;
        let start_when = if matches!(role, Role::Spare(_)) { StartWhen::Told } else { StartWhen::Now };
        let purpose = if role == Role::Snapshot { Purpose::Snapshot } else { Purpose::Sandbox };
        let spec = OwnerSpec {
            vm_id: vm.to_string(),
            store: recipe.images.clone(),
            template: kind.template.clone(),
            state_dir: places.state_dir(vm),
            vcpus: Vcpus(kind.shape.vcpus.0),
            memory: MemoryMib(kind.shape.memory.0),
            backing: MemoryBacking::Anonymous,
            monitor: recipe.monitor,
            start_from: StartFrom::Auto,
            start_when,
            purpose,
            network: None,
            boot_limit: boot_limit_default(),
            unattended_limit: omnirun_vmm_api::Millis(UNATTENDED_AFTER.0),
        };
        if let Role::Sandbox(sandbox) = role {
            places.bind(sandbox, vm).map_err(SpawnError::Lock)?;
        }
        let spawned = spawn(&recipe.executable, places, vm, &spec).await;
        // Also one that was not handed its spec: its process may live for a moment, and the watch sees its end.
        self.insert(vm, role, Some(kind.clone()));
        spawned
    }

    /// Gives a pool guest of this kind to a sandbox, a ready one where there is one, else one that soon will be.
    pub fn take(&self, kind: &Kind, sandbox: SandboxId) -> std::io::Result<Option<VmId>> {
        let mut table = self.table();
        let (pool, spare) = (Role::Pool(kind.clone()), Role::Spare(kind.clone()));
        let best = [(&pool, Life::Ready), (&pool, Life::Starting), (&spare, Life::Starting)];
        let Some(vm) = best.into_iter().find_map(|(role, life)| find(&table, role, &life)) else {
            return Ok(None);
        };
        self.shared.places.bind(sandbox, &vm)?;
        table.entry(vm.clone()).and_modify(|guest| guest.role = Role::Sandbox(sandbox));
        drop(table);
        self.changed();
        Ok(Some(vm))
    }

    /// Has a spare of this kind become a guest of the pool, where there is one.
    pub fn promote_spare(&self, kind: &Kind) -> Option<VmId> {
        let mut table = self.table();
        let vm = find(&table, &Role::Spare(kind.clone()), &Life::Starting)?;
        table.entry(vm.clone()).and_modify(|guest| guest.role = Role::Pool(kind.clone()));
        drop(table);
        self.changed();
        Some(vm)
    }

    /// The guest of this name.
    pub fn get(&self, vm: &VmId) -> Option<Guest> {
        self.table().get(vm).cloned()
    }

    /// Every guest.
    pub fn all(&self) -> Vec<(VmId, Guest)> {
        self.table().iter().map(|(vm, guest)| (vm.clone(), guest.clone())).collect()
    }

    /// The guest of a sandbox.
    pub fn of(&self, sandbox: SandboxId) -> Option<(VmId, Guest)> {
        let table = self.table();
        let found = table.iter().find(|(_, guest)| guest.role == Role::Sandbox(sandbox));
        found.map(|(vm, guest)| (vm.clone(), guest.clone()))
    }

    /// Guests of the pool that are not gone: those of this kind, and how many of them are ready.
    pub fn pooled(&self, kind: &Kind) -> (u32, u32) {
        let table = self.table();
        let lives =
            table.values().filter(|guest| guest.role == Role::Pool(kind.clone()) && guest.life.is_alive());
        lives.fold((0, 0), |(all, ready), guest| (all + 1, ready + u32::from(guest.life == Life::Ready)))
    }

    /// Waits until `find` finds something, which it looks for after every change.
    pub async fn until<T>(&self, within: Duration, mut find: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let mut changes = self.changes();
        let look = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = find(self) {
                    return found;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(within, look).await.ok()
    }

    /// Notes what the worker itself has done to a guest.
    pub fn note(&self, vm: &VmId, change: impl FnOnce(&mut Guest)) {
        if let Some(guest) = self.table().get_mut(vm) {
            change(guest);
        }
        self.changed();
    }

    /// Removes the last traces of a guest that has ended. Twice is once.
    pub fn remove(&self, vm: &VmId) -> std::io::Result<()> {
        let sandbox = match self.get(vm).map(|guest| guest.role) {
            Some(Role::Sandbox(sandbox)) => Some(sandbox),
            _ => None,
        };
        self.shared.places.remove(vm, sandbox)?;
        self.table().remove(vm);
        self.changed();
        Ok(())
    }

    /// A receiver that changes whenever a guest does.
    pub fn changes(&self) -> channel::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<VmId, Guest>> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> &Places {
        &self.shared.places
    }
}
