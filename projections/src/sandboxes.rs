//! Sandboxes: what each is, where it runs, and what is reserved for it.

use std::collections::{BTreeMap, BTreeSet};

use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, CommitId, HostId, SandboxId};
use omnirun_events::sandbox::{FailReason, Network, SandboxRequested, StopReason, TimeoutExtended};
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::{Seconds, Shape, StandardMillis, Timestamp};
use omnirun_events::usage::Meter;
use serde::{Deserialize, Serialize};

use crate::Fact;

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Admitted; no host has it yet.
    Requested,
    /// A host has claimed it and prepares its guest.
    Starting,
    /// Its guest runs code.
    Running,
    /// Somebody wants it gone.
    Stopping,
    /// Its guest is gone.
    Stopped(StopReason),
    /// It never ran.
    Failed(FailReason),
}

impl State {
    /// Whether nothing can happen to it any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Stopped(_) | Self::Failed(_))
    }

    /// The state's name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped(_) => "stopped",
            Self::Failed(_) => "failed",
        }
    }
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Whose.
    pub account: AccountId,
    /// Name of its template.
    pub template: String,
    /// Vcpus and memory.
    pub shape: Shape,
    /// Life from its start, as admitted.
    pub timeout: Seconds,
    /// Whether it has a way out.
    pub network: Network,
    /// The user's metadata, sealed as field [`omnirun_events::sandbox::METADATA_FIELD`] of the account's admission subject.
    pub metadata: Option<Sealed>,
    /// When it was admitted.
    pub requested_at: Timestamp,
    /// Until when a host may claim it.
    pub deadline: Timestamp,
    /// What is reserved of the plan for it, while it is not final.
    pub reserved: StandardMillis,
    /// Where it is in its life.
    pub state: State,
    /// Its host.
    pub host: Option<HostId>,
    /// When its guest became ready.
    pub started_at: Option<Timestamp>,
    /// When it ends unless extended.
    pub end_at: Option<Timestamp>,
    /// When it became final.
    pub ended_at: Option<Timestamp>,
    /// All that was metered, once it has stopped.
    pub meter: Option<Meter>,
    /// The commit that admitted it, by which a repeated wish is recognised.
    pub commit: CommitId,
    /// The latest extensions, oldest first, at most [`EXTENSIONS_KEPT`], by which repeated ones are recognised.
    pub extensions: Vec<Extension>,
}

/// Extensions of a sandbox that are remembered: a repeated command is a retry and comes soon.
pub const EXTENSIONS_KEPT: usize = 8;

/// One extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// The commit that admitted it.
    pub commit: CommitId,
    /// When.
    pub at: Timestamp,
    /// The end that it set.
    pub end_at: Timestamp,
}

/// Every sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandboxes {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    by_account: BTreeMap<AccountId, Vec<SandboxId>>,
    live: BTreeSet<SandboxId>,
}

impl Sandboxes {
    /// The sandbox with this id.
    pub fn get(&self, sandbox: SandboxId) -> Option<&Sandbox> {
        self.sandboxes.get(&sandbox)
    }

    /// An account's sandboxes, oldest first.
    pub fn of(&self, account: AccountId) -> impl DoubleEndedIterator<Item = (SandboxId, &Sandbox)> {
        let ids = self.by_account.get(&account).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| self.sandboxes.get(id).map(|sandbox| (*id, sandbox)))
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
                if let Some(sandbox) = self.sandboxes.get_mut(&extended.sandbox)
                    && sandbox.account == account
                    && !sandbox.state.is_final()
                {
                    sandbox.extend(extended, fact);
                }
            }
            (SubjectKind::Sandbox(account, id), event) => {
                if let Some(sandbox) = self.sandboxes.get_mut(&id)
                    && sandbox.account == account
                    && !sandbox.state.is_final()
                {
                    sandbox.follow(event, fact.at);
                    if sandbox.state.is_final() {
                        self.live.remove(&id);
                    }
                }
            }
            _ => {}
        }
    }

    pub(crate) fn drop_account(&mut self, account: AccountId) {
        for id in self.by_account.remove(&account).unwrap_or_default() {
            self.sandboxes.remove(&id);
            self.live.remove(&id);
        }
    }

    pub(crate) fn drop_sandbox(&mut self, sandbox: SandboxId) {
        let Some(Sandbox { account, .. }) = self.sandboxes.remove(&sandbox) else { return };
        self.live.remove(&sandbox);
        if let Some(ids) = self.by_account.get_mut(&account) {
            ids.retain(|id| *id != sandbox);
            if ids.is_empty() {
                self.by_account.remove(&account);
            }
        }
    }

    fn request(&mut self, account: AccountId, requested: &SandboxRequested, fact: &Fact<'_>) {
        let id = requested.sandbox;
        if self.sandboxes.contains_key(&id) {
            return;
        }
        let sandbox = Sandbox {
            account,
            template: requested.template.clone(),
            shape: requested.shape,
            timeout: requested.timeout,
            network: requested.network,
            metadata: requested.metadata.clone(),
            requested_at: fact.at,
            deadline: requested.deadline,
            reserved: requested.reserved,
            state: State::Requested,
            host: None,
            started_at: None,
            end_at: None,
            ended_at: None,
            meter: None,
            commit: fact.commit,
            extensions: Vec::new(),
        };
        self.sandboxes.insert(id, sandbox);
        self.by_account.entry(account).or_default().push(id);
        self.live.insert(id);
    }
}

impl Sandbox {
    fn follow(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::SandboxClaimed(claimed) if self.state == State::Requested => {
                self.host = Some(claimed.host);
                self.state = State::Starting;
            }
            Event::SandboxStarted(started) => {
                self.started_at = Some(started.started_at);
                // An extension that was admitted while the guest was being prepared counts from its own moment.
                self.end_at = self.end_at.max(Some(started.end_at));
                if self.state == State::Starting {
                    self.state = State::Running;
                }
            }
            Event::StopRequested(_) => self.state = State::Stopping,
            Event::SandboxStopped(stopped) => {
                self.ended_at = Some(stopped.stopped_at);
                self.meter = Some(stopped.meter);
                self.state = State::Stopped(stopped.reason);
            }
            Event::SandboxFailed(failed) => {
                self.ended_at = Some(at);
                self.state = State::Failed(failed.reason);
            }
            _ => {}
        }
    }

    fn extend(&mut self, extended: &TimeoutExtended, fact: &Fact<'_>) {
        self.end_at = Some(extended.end_at);
        self.reserved = extended.reserved;
        if self.extensions.len() == EXTENSIONS_KEPT {
            self.extensions.remove(0);
        }
        self.extensions.push(Extension { commit: fact.commit, at: fact.at, end_at: extended.end_at });
    }

    /// The extension that this commit made, if it is one of the latest.
    pub fn extension(&self, commit: CommitId) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.commit == commit)
    }

    /// What of the plan it has used or may still use: the reservation while it lives, what it ran once it has stopped, nothing if
    /// it failed.
    pub fn charged(&self) -> StandardMillis {
        match self.state {
            State::Failed(_) => StandardMillis::ZERO,
            State::Stopped(_) => self.shape.weigh(self.meter.unwrap_or_default().wall),
            _ => self.reserved,
        }
    }
}
