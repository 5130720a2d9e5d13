//! What to do now: the difference between what the log says of this host's sandboxes and what lives on it.
//!
//! Pure. It runs after every change on either side and on a timer, and there is one way for the happy day and for recovery: a claim that was
//! just won, and one that a crash left without a guest, look the same here.

mod run;

use std::collections::BTreeMap;

use omnirun_events::id::SandboxId;
use omnirun_events::unit::Timestamp;
use omnirun_vmm_api::owner::EndReason;

use crate::guests::{Life, Role};
pub use crate::place::VmId;

pub(crate) use run::run;

/// How far a sandbox is on the log, what waits in the outbox included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// This host has it and must give it a guest by the deadline.
    Claimed {
        /// After this moment nobody waits for it.
        deadline: Timestamp,
    },
    /// Its guest was announced.
    Running {
        /// When it ends.
        end_at: Option<Timestamp>,
    },
    /// Somebody wants it paused.
    Pausing {
        /// When it ends.
        end_at: Option<Timestamp>,
    },
    /// It was said that it is paused.
    Paused {
        /// When it ends.
        end_at: Option<Timestamp>,
    },
    /// Somebody wants it gone.
    Stopping {
        /// Whether its guest was announced.
        has_run: bool,
    },
}

/// The sandboxes of this host whose end is neither on the log nor on its way there.
pub type LogView = BTreeMap<SandboxId, Phase>;

/// One guest of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestView {
    /// Its name.
    pub vm: VmId,
    /// What it is there for.
    pub tenant: Tenant,
    /// How far it is.
    pub stage: Stage,
}

/// What a guest is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenant {
    /// The worker itself: its pool, a snapshot.
    Worker,
    /// A sandbox.
    Sandbox(SandboxId),
    /// Nobody: an earlier worker's pool.
    Nobody,
}

/// How far a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is not personalised.
    Waiting,
    /// It runs, until this moment.
    Running(Option<Timestamp>),
    /// It stands still, until this moment.
    Paused(Option<Timestamp>),
    /// It is gone.
    Gone,
}

impl From<&Life> for Stage {
    fn from(life: &Life) -> Self {
        match life {
            Life::Starting | Life::Ready => Self::Waiting,
            Life::Claimed(end) => Self::Running(*end),
            Life::Paused(end) => Self::Paused(*end),
            Life::Ended(_) => Self::Gone,
        }
    }
}

impl From<&Role> for Tenant {
    fn from(role: &Role) -> Self {
        match role {
            Role::Pool(_) | Role::Spare(_) | Role::Snapshot => Self::Worker,
            Role::Sandbox(sandbox) => Self::Sandbox(*sandbox),
            Role::Stray => Self::Nobody,
        }
    }
}

/// What the host is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It runs what it has.
    Serving,
    /// It is being emptied: everything ends.
    Draining,
    /// It has been able to say nothing on the log for so long that others will take it for lost: everything ends.
    CutOff,
}

impl Mode {
    /// Why its guests end, if they do.
    const fn ends(self) -> Option<EndReason> {
        match self {
            Self::Serving => None,
            Self::Draining => Some(EndReason::HostStopped),
            Self::CutOff => Some(EndReason::HostCutOff),
        }
    }
}

/// One thing to do. Doing it twice is doing it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// End this guest.
    Kill(VmId, EndReason),
    /// Move the end of this guest.
    SetEnd(VmId, Timestamp),
    /// Have this guest stand still.
    Pause(VmId),
    /// Let this guest go on.
    Resume(VmId),
    /// Remove what is left of this guest; nothing needs to be said about it.
    Remove(VmId),
    /// Give the sandbox a guest, or go on with the one it has, and announce it.
    Start(SandboxId),
    /// Say that the sandbox is paused, and what it has used.
    ReportPaused(SandboxId),
    /// Say that the sandbox never ran.
    Fail(SandboxId),
    /// Say that the sandbox has stopped, from what its guest left, if it left something.
    Report(SandboxId),
}

/// What must not be done twice at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Something about a guest.
    Guest(VmId),
    /// Something about a sandbox.
    Sandbox(SandboxId),
}

impl Action {
    /// What it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Kill(vm, _)
            | Self::SetEnd(vm, _)
            | Self::Pause(vm)
            | Self::Resume(vm)
            | Self::Remove(vm) => Key::Guest(vm.clone()),
            Self::Start(sandbox)
            | Self::ReportPaused(sandbox)
            | Self::Fail(sandbox)
            | Self::Report(sandbox) => Key::Sandbox(*sandbox),
        }
    }
}

/// What to do now. Ending what must not live comes first.
pub fn plan(log: &LogView, guests: &[GuestView], mode: Mode, now: Timestamp) -> Vec<Action> {
    let mut actions: Vec<Action> = guests.iter().filter_map(|guest| about_guest(log, guest, mode)).collect();
    for (sandbox, phase) in log {
        let guest = guests.iter().find(|guest| guest.tenant == Tenant::Sandbox(*sandbox));
        actions.extend(about_sandbox(*sandbox, *phase, guest.map(|guest| guest.stage), mode, now));
    }
    actions.sort_by_key(|action| !matches!(action, Action::Kill(..)));
    actions
}

fn about_guest(log: &LogView, guest: &GuestView, mode: Mode) -> Option<Action> {
    let vm = || guest.vm.clone();
    let phase = match guest.tenant {
        Tenant::Sandbox(sandbox) => log.get(&sandbox),
        Tenant::Nobody => None,
        Tenant::Worker if guest.stage == Stage::Gone => return Some(Action::Remove(vm())),
        Tenant::Worker => return None,
    };
    match (phase, guest.stage) {
        (None, Stage::Gone) => Some(Action::Remove(vm())),
        (None, _) => Some(Action::Kill(vm(), EndReason::NotNeeded)),
        (Some(_), Stage::Gone) => None,
        (Some(Phase::Stopping { .. }), _) => Some(Action::Kill(vm(), EndReason::Killed)),
        (Some(phase), stage) => match (mode.ends(), stage) {
            (Some(reason), _) => Some(Action::Kill(vm(), reason)),
            (None, Stage::Running(end) | Stage::Paused(end)) => about_tenant(*phase, guest, end),
            _ => None,
        },
    }
}

/// What a guest that is its sandbox's is told: first its end, by which it is paused or not.
fn about_tenant(phase: Phase, guest: &GuestView, end: Option<Timestamp>) -> Option<Action> {
    let vm = || guest.vm.clone();
    let is_paused = matches!(guest.stage, Stage::Paused(_));
    let (Phase::Running { end_at } | Phase::Pausing { end_at } | Phase::Paused { end_at }) = phase else {
        return None;
    };
    match (phase, end_at) {
        (_, Some(wanted)) if end != Some(wanted) => Some(Action::SetEnd(vm(), wanted)),
        (Phase::Running { .. }, _) if is_paused => Some(Action::Resume(vm())),
        (Phase::Pausing { .. } | Phase::Paused { .. }, _) if !is_paused => Some(Action::Pause(vm())),
        _ => None,
    }
}

fn about_sandbox(
    sandbox: SandboxId,
    phase: Phase,
    guest: Option<Stage>,
    mode: Mode,
    now: Timestamp,
) -> Option<Action> {
    let is_alive = guest.is_some_and(|stage| stage != Stage::Gone);
    match phase {
        Phase::Claimed { .. } if mode.ends().is_some() => (!is_alive).then_some(Action::Fail(sandbox)),
        Phase::Claimed { .. } if is_alive => Some(Action::Start(sandbox)),
        Phase::Claimed { deadline } if now <= deadline => Some(Action::Start(sandbox)),
        Phase::Claimed { .. } => Some(Action::Fail(sandbox)),
        Phase::Pausing { .. } if matches!(guest, Some(Stage::Paused(_))) => {
            Some(Action::ReportPaused(sandbox))
        }
        Phase::Running { .. } | Phase::Pausing { .. } | Phase::Paused { .. } | Phase::Stopping { .. } => {
            (!is_alive).then_some(Action::Report(sandbox))
        }
    }
}

#[cfg(test)]
mod tests;
