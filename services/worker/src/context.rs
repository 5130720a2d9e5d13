//! What every part of a running worker shares.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, CommitId, HostId, SandboxId};
use omnirun_events::signing::Signer;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::{Clock, Timestamp};
use omnirun_projections::Directory;
use omnirun_projections::sandboxes::Sandbox;
use omnirun_runner::Live;

use crate::config::{Config, Stores};
use crate::guests::{Guests, Kind};
use crate::outbox::{Outbox, commits};
use crate::reconcile::Mode;
use crate::template::Template;

/// What every part of a running worker shares. Clones share it.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
}

impl std::ops::Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// The shared parts.
pub struct Shared {
    /// The log.
    pub stores: Stores,
    /// What the log says.
    pub directory: Live<Directory>,
    /// Signs what this host says.
    pub signer: Arc<Signer>,
    /// This host.
    pub host: HostId,
    /// The time.
    pub clock: Clock,
    /// What it offers.
    pub config: Config,
    /// The templates it offers, by name.
    pub templates: BTreeMap<String, Template>,
    /// What lives here.
    pub guests: Guests,
    /// What waits for the log.
    pub outbox: Outbox,
    /// Whether the host is being emptied.
    pub is_draining: AtomicBool,
}

/// Whether the log believes this signer. A record by a key that it does not know, or not any more, stops every read model that meets it,
/// so nothing is appended before.
pub fn is_enrolled(directory: &Live<Directory>, signer: &Signer) -> bool {
    directory.view(|_, verifier| {
        verifier
            .ring()
            .get(signer.id())
            .is_some_and(|key| key.role == Role::Worker && key.retired_at.is_none())
    })
}

impl Context {
    /// The shared parts, made shareable.
    pub fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }
}

impl Shared {
    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// What a guest for this sandbox is made of.
    pub fn kind(&self, sandbox: &Sandbox) -> Kind {
        Kind { template: sandbox.template.clone(), shape: sandbox.shape }
    }

    /// A sandbox as the log has it.
    pub fn sandbox(&self, sandbox: SandboxId) -> Option<Sandbox> {
        self.directory.view(|directory, _| directory.sandboxes.get(sandbox).cloned())
    }

    /// Whether the host is being emptied.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// What the host is about.
    pub fn mode(&self) -> Mode {
        let is_cut_off = self.outbox.stuck_for() >= self.config.cut_off_after.as_duration();
        match (self.is_draining(), is_cut_off) {
            (true, _) => Mode::Draining,
            (false, true) => Mode::CutOff,
            (false, false) => Mode::Serving,
        }
    }

    /// Whether it may take requests: the log has it as a host that has joined and was not given up.
    pub fn is_present(&self) -> bool {
        self.directory.view(|directory, _| directory.hosts.present().any(|(host, _)| host == self.host))
    }

    /// Whether a sandbox's end is on the log or on its way there.
    pub fn has_ended(&self, sandbox: SandboxId) -> bool {
        self.outbox.holds(commits::ended(sandbox))
            || self.sandbox(sandbox).is_none_or(|sandbox| sandbox.state.is_final())
    }

    /// Whether the log believes what this host signs.
    pub fn is_enrolled(&self) -> bool {
        is_enrolled(&self.directory, &self.signer)
    }

    /// A draft about a sandbox, on its own subject.
    pub fn about(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        commit: CommitId,
        event: impl Into<Event>,
    ) -> Draft {
        self.draft(SubjectKind::Sandbox(account, sandbox), commit, event)
    }

    /// A draft of one event, said by this host now.
    pub fn draft(&self, subject: SubjectKind, commit: CommitId, event: impl Into<Event>) -> Draft {
        Draft {
            commit,
            subject: subject.into(),
            at: self.now(),
            actor: Actor::Host(self.host),
            cause: None,
            events: vec![event.into()],
        }
    }
}
