//! Sandboxes: what each is, where it runs, and what is reserved for it.

mod sandbox;

use std::collections::{BTreeMap, BTreeSet};

use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, HostId, SandboxId};
use omnirun_events::sandbox::SandboxRequested;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::{Day, StandardMillis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Fact;

pub use self::sandbox::{EXTENSIONS_KEPT, Extension, Sandbox, State, Used};

/// Every sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandboxes {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    by_account: BTreeMap<AccountId, Holding>,
    live: BTreeSet<SandboxId>,
}

/// What one account has, with the sums that admission asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Holding {
    /// Oldest first.
    sandboxes: Vec<SandboxId>,
    /// How many of them are not final.
    live: u32,
    /// What the sandboxes admitted on each day are charged in all, in milliseconds of a standard shape; no day has zero. Sums wrap, so that
    /// taking away what was added leaves what was there before whatever a log says.
    charged: BTreeMap<Day, u64>,
}

impl Holding {
    fn recharge(&mut self, admitted: Timestamp, before: StandardMillis, after: StandardMillis) {
        let sum = self.charged.entry(Day::of(admitted)).or_default();
        *sum = sum.wrapping_sub(before.0).wrapping_add(after.0);
        if *sum == 0 {
            self.charged.remove(&Day::of(admitted));
        }
    }
}

impl Sandboxes {
    /// The sandbox with this id.
    pub fn get(&self, sandbox: SandboxId) -> Option<&Sandbox> {
        self.sandboxes.get(&sandbox)
    }

    /// An account's sandboxes, oldest first.
    pub fn of(&self, account: AccountId) -> impl DoubleEndedIterator<Item = (SandboxId, &Sandbox)> {
        let ids = self.by_account.get(&account).map(|held| held.sandboxes.as_slice()).unwrap_or_default();
        ids.iter().filter_map(|id| self.sandboxes.get(id).map(|sandbox| (*id, sandbox)))
    }

    /// How many of an account's sandboxes are not final.
    pub fn live_of(&self, account: AccountId) -> u32 {
        self.by_account.get(&account).map_or(0, |held| held.live)
    }

    /// What an account's sandboxes that were admitted on these days are charged; `end` is not one of them.
    pub fn charged(&self, account: AccountId, first: Day, end: Day) -> StandardMillis {
        let Some(held) = self.by_account.get(&account).filter(|_| first < end) else {
            return StandardMillis::ZERO;
        };
        let days = held.charged.range(first..end).map(|(_, sum)| StandardMillis(*sum));
        days.fold(StandardMillis::ZERO, StandardMillis::plus)
    }

    /// Every sandbox that is not final.
    pub fn live(&self) -> impl Iterator<Item = (SandboxId, &Sandbox)> {
        self.live.iter().filter_map(|id| self.sandboxes.get(id).map(|sandbox| (*id, sandbox)))
    }

    /// The sandboxes of a host that are not final.
    pub fn on(&self, host: HostId) -> impl Iterator<Item = (SandboxId, &Sandbox)> {
        self.live().filter(move |(_, sandbox)| sandbox.host == Some(host))
    }

    pub(crate) fn apply(&mut self, fact: &Fact<'_>) {
        match (fact.kind, fact.event) {
            (SubjectKind::Admission(account), Event::SandboxRequested(requested)) => {
                self.request(account, requested, fact);
            }
            (SubjectKind::Admission(account), Event::TimeoutExtended(extended)) => {
                self.follow(account, extended.sandbox, fact);
            }
            (SubjectKind::Admission(account), Event::SandboxResumed(resumed)) => {
                self.follow(account, resumed.sandbox, fact);
            }
            (SubjectKind::Sandbox(account, id), _) => self.follow(account, id, fact),
            _ => {}
        }
    }

    /// Has one of the account's sandboxes that is not final follow an event, and the account's sums with it.
    fn follow(&mut self, account: AccountId, id: SandboxId, fact: &Fact<'_>) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        let Some(held) = self.by_account.get_mut(&account) else { return };
        if sandbox.account != account || sandbox.state.is_final() {
            return;
        }
        let before = sandbox.charged();
        sandbox.follow(fact);
        held.recharge(sandbox.requested_at, before, sandbox.charged());
        if sandbox.state.is_final() {
            self.live.remove(&id);
            held.live = held.live.saturating_sub(1);
        }
    }

    pub(crate) fn drop_account(&mut self, account: AccountId) {
        for id in self.by_account.remove(&account).unwrap_or_default().sandboxes {
            self.sandboxes.remove(&id);
            self.live.remove(&id);
        }
    }

    pub(crate) fn drop_sandbox(&mut self, sandbox: SandboxId) {
        let Some(gone) = self.sandboxes.remove(&sandbox) else { return };
        let was_live = self.live.remove(&sandbox);
        if let Some(held) = self.by_account.get_mut(&gone.account) {
            held.sandboxes.retain(|id| *id != sandbox);
            held.live = held.live.saturating_sub(u32::from(was_live));
            held.recharge(gone.requested_at, gone.charged(), StandardMillis::ZERO);
            if held.sandboxes.is_empty() {
                self.by_account.remove(&gone.account);
            }
        }
    }

    fn request(&mut self, account: AccountId, requested: &SandboxRequested, fact: &Fact<'_>) {
        let id = requested.sandbox;
        if self.sandboxes.contains_key(&id) {
            return;
        }
        let sandbox = Sandbox::requested(account, requested, fact);
        let held = self.by_account.entry(account).or_default();
        held.sandboxes.push(id);
        held.live = held.live.saturating_add(1);
        held.recharge(fact.at, StandardMillis::ZERO, sandbox.charged());
        self.sandboxes.insert(id, sandbox);
        self.live.insert(id);
    }
}
