//! Usage: what each sandbox has been metered, from its own events and the meter readings in the usage logs.
//!
//! The two sources are different logs. A reading comes after the request of its sandbox was read, as the runner sees to; other than that they
//! may be read in any order: readings only ever raise a figure, so every order gives the same state. A reading of a sandbox that is not
//! there, because its account was erased, changes nothing.

use std::collections::BTreeMap;

use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::{Bytes, MebibyteSeconds, Millis, Shape, Timestamp};
use omnirun_events::usage::Meter;
use serde::{Deserialize, Serialize};

use crate::{Fact, Fold};

/// What one sandbox used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxUsage {
    /// Its shape, once its request was read.
    pub shape: Option<Shape>,
    /// Name of its template.
    pub template: String,
    /// When its guest became ready.
    pub started_at: Option<Timestamp>,
    /// When it stopped; none while it runs.
    pub stopped_at: Option<Timestamp>,
    /// The latest reading.
    pub meter: Meter,
    /// When that was read.
    pub observed_at: Option<Timestamp>,
}

/// Every account's usage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    accounts: BTreeMap<AccountId, BTreeMap<SandboxId, SandboxUsage>>,
}

impl Usage {
    /// An account's sandboxes and what they used.
    pub fn of(&self, account: AccountId) -> impl Iterator<Item = (SandboxId, &SandboxUsage)> {
        self.accounts.get(&account).into_iter().flatten().map(|(id, usage)| (*id, usage))
    }

    fn get_mut(&mut self, account: AccountId, sandbox: SandboxId) -> Option<&mut SandboxUsage> {
        self.accounts.get_mut(&account)?.get_mut(&sandbox)
    }
}

impl SandboxUsage {
    fn observe(&mut self, meter: &Meter, at: Timestamp) {
        self.meter = highest(&self.meter, meter);
        self.observed_at = self.observed_at.max(Some(at));
    }
}

/// The higher of each figure: cumulative counters cannot fall.
fn highest(a: &Meter, b: &Meter) -> Meter {
    Meter {
        wall: Millis(a.wall.0.max(b.wall.0)),
        vcpu: Millis(a.vcpu.0.max(b.vcpu.0)),
        memory: MebibyteSeconds(a.memory.0.max(b.memory.0)),
        received: Bytes(a.received.0.max(b.received.0)),
        sent: Bytes(a.sent.0.max(b.sent.0)),
    }
}

impl Fold for Usage {
    const NAME: &'static str = "usage";
    const VERSION: u32 = 2;

    fn apply(&mut self, fact: &Fact<'_>) {
        match (fact.kind, fact.event) {
            (SubjectKind::Admission(account), Event::SandboxRequested(requested)) => {
                let sandboxes = self.accounts.entry(account).or_default();
                let usage = sandboxes.entry(requested.sandbox).or_default();
                // The first request counts, as in the directory.
                if usage.shape.is_none() {
                    usage.shape = Some(requested.shape);
                    usage.template.clone_from(&requested.template);
                }
            }
            (SubjectKind::Sandbox(account, sandbox), Event::SandboxStarted(started)) => {
                if let Some(usage) = self.get_mut(account, sandbox) {
                    usage.started_at = Some(started.started_at);
                }
            }
            (SubjectKind::Sandbox(account, sandbox), Event::SandboxStopped(stopped)) => {
                if let Some(usage) = self.get_mut(account, sandbox) {
                    usage.observe(&stopped.meter, stopped.stopped_at);
                    usage.stopped_at = Some(stopped.stopped_at);
                }
            }
            (SubjectKind::Usage(_, account, sandbox), Event::UsageMetered(metered)) => {
                if let Some(usage) = self.get_mut(account, sandbox) {
                    usage.observe(&metered.meter, metered.observed_at);
                }
            }
            (SubjectKind::Account(account), Event::AccountClosed(_)) => drop(self.accounts.remove(&account)),
            _ => {}
        }
    }

    fn forget(&mut self, subject: SubjectKind) {
        match subject {
            SubjectKind::Account(account) | SubjectKind::Admission(account) => {
                self.accounts.remove(&account);
            }
            SubjectKind::Sandbox(account, sandbox) => {
                if let Some(sandboxes) = self.accounts.get_mut(&account) {
                    sandboxes.remove(&sandbox);
                    if sandboxes.is_empty() {
                        self.accounts.remove(&account);
                    }
                }
            }
            _ => {}
        }
    }
}
