//! Who may say what, and the records that change it.

use crate::envelope::{Actor, Record, Role};
use crate::event::Event;
use crate::id::HostId;
use crate::keyring::{EnrolError, RingEntry};
use crate::log::Stored;
use crate::sandbox::StopReason;
use crate::subject::SubjectKind;
use crate::verify::{Ignored, Verifier};

impl Verifier {
    /// Whether the key may say this, here, for this actor.
    pub(super) fn authorise(&self, record: &Record, entry: &RingEntry) -> Result<(), Ignored> {
        let unknown_allowed = |event: &Event| matches!(event, Event::Unknown { .. });
        for (name, event) in record.header.events.iter().zip(&record.events) {
            if !unknown_allowed(event) && !Event::may_be_said_by(name, entry.role) {
                return Err(Ignored::Role(entry.role));
            }
        }
        let kind = record.header.subject.kind();
        if (kind == SubjectKind::KeyRing) != (entry.role == Role::Root) {
            return Err(Ignored::Role(entry.role));
        }
        match (entry.role, entry.host) {
            (Role::Worker, Some(host)) => self.authorise_worker(record, kind, host),
            (Role::Worker, None) => Err(Ignored::ForeignHost),
            _ if matches!(record.header.actor, Actor::Host(_)) => Err(Ignored::Actor),
            _ => Ok(()),
        }
    }

    fn authorise_worker(&self, record: &Record, kind: SubjectKind, host: HostId) -> Result<(), Ignored> {
        if record.header.actor != Actor::Host(host) {
            return Err(Ignored::Actor);
        }
        let mut claimed = record.events.iter().filter_map(|event| match event {
            Event::SandboxClaimed(claimed) => Some(claimed.host),
            _ => None,
        });
        let first = claimed.next();
        let (claims, is_claim) = (first == Some(host), first.is_some());
        if claimed.any(|other| other != host) {
            return Err(Ignored::ForeignHost);
        }
        let (is_own, owner) = match kind {
            SubjectKind::Host(subject) => (subject == host, Some(subject)),
            SubjectKind::Sandbox(..) => match self.owner(kind) {
                Some(owner) => (owner == host && !self.is_over(kind), Some(owner)),
                // Whatever is ignored there may have come first.
                None => (claims && !self.is_over(kind), None),
            },
            SubjectKind::Usage(_, account, sandbox) => {
                let owner = self.owner(SubjectKind::Sandbox(account, sandbox));
                (owner == Some(host), owner)
            }
            _ => (false, None),
        };
        match is_own {
            true => Ok(()),
            false if owner.is_none() && !is_claim && self.is_of_no_account(kind) => Err(Ignored::Erased),
            false => Err(Ignored::ForeignHost),
        }
    }

    /// Takes note of what changes who is believed.
    pub(super) fn follow(&mut self, record: &Record, stored: &Stored) -> Result<(), Ignored> {
        let kind = record.header.subject.kind();
        match kind {
            SubjectKind::KeyRing => {
                // On a copy, so that a record that is ignored for one enrolment leaves none of its others behind.
                let mut ring = self.ring.clone();
                for event in &record.events {
                    let applied = ring.apply(event, stored.sequence, record.header.at);
                    applied.map_err(|error: EnrolError| Ignored::Enrolment(error.to_string()))?;
                }
                self.ring = ring;
            }
            SubjectKind::Erasure => self.bury(record, stored)?,
            SubjectKind::Sandbox(..) => {
                let Some(known) = self.subjects.get_mut(&kind) else { return Ok(()) };
                for event in &record.events {
                    match event {
                        Event::SandboxClaimed(claimed) => {
                            known.owner.get_or_insert(claimed.host);
                        }
                        Event::SandboxStopped(stopped) => {
                            known.is_over |= stopped.reason == StopReason::HostLost;
                        }
                        Event::SandboxFailed(_) => known.is_over = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
