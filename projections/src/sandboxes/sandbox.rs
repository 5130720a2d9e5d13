//! One sandbox: what it is, and what each event makes of it.

use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, CommitId, HostId};
use omnirun_events::sandbox::{FailReason, Network, SandboxRequested, StopReason};
use omnirun_events::sealing::Sealed;
use omnirun_events::unit::{Millis, Seconds, Shape, StandardMillis, Timestamp};
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
    /// Somebody wants it paused.
    Pausing,
    /// Its guest stands still; its memory stays.
    Paused,
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
            Self::Pausing => "pausing",
            Self::Paused => "paused",
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
    /// What it had used when it last began to run or to stand still.
    pub used: Used,
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
    /// Times that its host has said that it is paused.
    pub pauses: u32,
    /// The commits of the latest wishes to pause or resume it, oldest first, at most [`EXTENSIONS_KEPT`].
    pub switches: Vec<CommitId>,
}

/// What a sandbox had used at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Used {
    /// The moment.
    pub at: Timestamp,
    /// The running time that counts for it by then, as [`Meter::counted`] says.
    pub counted: Millis,
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

impl Sandbox {
    /// As it was admitted.
    pub(super) fn requested(account: AccountId, requested: &SandboxRequested, fact: &Fact<'_>) -> Self {
        Self {
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
            used: Used::default(),
            started_at: None,
            end_at: None,
            ended_at: None,
            meter: None,
            commit: fact.commit,
            extensions: Vec::new(),
            pauses: 0,
            switches: Vec::new(),
        }
    }

    /// What an event of its own makes of it.
    pub(super) fn follow(&mut self, fact: &Fact<'_>) {
        match fact.event {
            Event::SandboxClaimed(claimed) if self.state == State::Requested => {
                self.host = Some(claimed.host);
                self.state = State::Starting;
            }
            Event::SandboxStarted(started) if self.started_at.is_none() => {
                self.started_at = Some(started.started_at);
                self.used = Used { at: started.started_at, counted: Millis::ZERO };
                // An extension that was admitted while the guest was being prepared counts from its own moment.
                self.end_at = self.end_at.max(Some(started.end_at));
                if self.state == State::Starting {
                    self.state = State::Running;
                }
            }
            Event::TimeoutExtended(extended) => {
                self.end_at = Some(extended.end_at);
                self.reserved = extended.reserved;
                let extension = Extension { commit: fact.commit, at: fact.at, end_at: extended.end_at };
                keep(&mut self.extensions, extension);
            }
            Event::PauseRequested(_) => {
                keep(&mut self.switches, fact.commit);
                if self.state == State::Running {
                    self.state = State::Pausing;
                }
            }
            Event::SandboxPaused(paused) if matches!(self.state, State::Pausing | State::Stopping) => {
                self.reserved = self.reserved.min(paused.reserved(self.shape));
                self.used = Used { at: paused.paused_at, counted: paused.used(self.shape) };
                self.pauses = self.pauses.saturating_add(1);
                if self.state == State::Pausing {
                    self.state = State::Paused;
                }
            }
            Event::SandboxResumed(resumed) => {
                keep(&mut self.switches, fact.commit);
                self.reserved = resumed.reserved;
                if self.state == State::Paused {
                    self.used = self.used_paused(fact.at);
                    self.end_at = Some(resumed.end_at);
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
                self.ended_at = Some(fact.at);
                self.state = State::Failed(failed.reason);
            }
            _ => {}
        }
    }

    /// The extension that this commit made, if it is one of the latest.
    pub fn extension(&self, commit: CommitId) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.commit == commit)
    }

    /// What it has used by `now` if it was paused all the time since [`Self::used`].
    fn used_paused(&self, now: Timestamp) -> Used {
        let more = self.shape.paused(now.since(self.used.at));
        Used { at: now, counted: self.used.counted.plus(more) }
    }

    /// What has to be reserved for it in all so that it may stay as it is, running or paused, until `end_at`.
    pub fn reservation_until(&self, end_at: Timestamp) -> StandardMillis {
        let used = match self.state {
            State::Paused => self.used_paused(end_at),
            _ => Used { at: end_at, counted: self.used.counted.plus(end_at.since(self.used.at)) },
        };
        self.shape.charge(used.counted)
    }

    /// What has to be reserved for it in all so that it may run from `now` until `end_at`, having been paused until now.
    pub fn reservation_to_resume(&self, now: Timestamp, end_at: Timestamp) -> StandardMillis {
        self.shape.charge(self.used_paused(now).counted.plus(end_at.since(now)))
    }

    /// What of the plan it has used or may still use: the reservation while it lives, what counts of its time once it has stopped, never
    /// more than the reservation, nothing if it failed. A bill for it says the same.
    pub fn charged(&self) -> StandardMillis {
        let reserved = self.reserved.whole_seconds();
        match self.state {
            State::Failed(_) => StandardMillis::ZERO,
            State::Stopped(_) => {
                self.shape.charge(self.meter.unwrap_or_default().counted(self.shape)).min(reserved)
            }
            _ => reserved,
        }
    }
}

/// Adds to a list of which the latest are kept.
fn keep<T>(list: &mut Vec<T>, latest: T) {
    if list.len() == EXTENSIONS_KEPT {
        list.remove(0);
    }
    list.push(latest);
}
