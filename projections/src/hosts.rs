//! Worker hosts: what each offers and where its data path is.

use std::collections::BTreeMap;

use omnirun_events::envelope::Actor;
use omnirun_events::event::Event;
use omnirun_events::host::HostJoined;
use omnirun_events::id::HostId;
use omnirun_events::log::Sequence;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Fact;

/// One host, as it last announced itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// When it last joined.
    pub joined_at: Timestamp,
    /// What it offers.
    pub offer: HostJoined,
    /// Whether it has left in order since.
    pub has_left: bool,
    /// Everything it will ever say about sandboxes that were final at this position of EVENTS is on the log.
    pub caught_up: Sequence,
}

/// Who has given up a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostBy {
    /// An operator: it is back with its next start.
    Operator,
    /// Nobody: its lease was over. It is back as soon as it can say so.
    Lease,
}

/// Every host that ever joined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    hosts: BTreeMap<HostId, Host>,
    /// Who was given up. Among them may be some that never joined: whoever has a key can claim.
    lost: BTreeMap<HostId, LostBy>,
}

impl Hosts {
    /// The host with this id.
    pub fn get(&self, host: HostId) -> Option<&Host> {
        self.hosts.get(&host)
    }

    /// Who has given the host up since it last joined, if somebody has.
    pub fn lost(&self, host: HostId) -> Option<LostBy> {
        self.lost.get(&host).copied()
    }

    /// The hosts that have joined and neither left nor been given up.
    pub fn present(&self) -> impl Iterator<Item = (HostId, &Host)> {
        let present = self.hosts.iter().filter(|(id, host)| !host.has_left && !self.lost.contains_key(id));
        present.map(|(id, host)| (*id, host))
    }

    /// Whether a present host can start this template.
    pub fn offers(&self, template: &str) -> bool {
        self.present().any(|(_, host)| host.offer.templates.iter().any(|offered| offered.name == template))
    }

    pub(crate) fn apply(&mut self, fact: &Fact<'_>) {
        let SubjectKind::Host(id) = fact.kind else { return };
        match fact.event {
            Event::HostJoined(joined) => {
                let before = self.hosts.get(&id);
                // The certificate is new with each start.
                let is_start = before.is_none_or(|known| known.offer.certificate != joined.certificate);
                if is_start || self.lost(id) == Some(LostBy::Lease) {
                    self.lost.remove(&id);
                }
                let caught_up = before.map_or(Sequence::NONE, |host| host.caught_up);
                let offer = joined.clone();
                self.hosts.insert(id, Host { joined_at: fact.at, offer, has_left: false, caught_up });
            }
            Event::HostCaughtUp(caught_up) => {
                if let Some(host) = self.hosts.get_mut(&id) {
                    // Nobody can know what comes after their own word.
                    host.caught_up = host.caught_up.max(caught_up.through.min(fact.sequence));
                }
            }
            Event::HostLeft(_) => {
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.has_left = true;
                }
            }
            Event::HostLost(_) => {
                let by = if fact.actor == Actor::Operator { LostBy::Operator } else { LostBy::Lease };
                // What an operator has decided stays so.
                if self.lost(id) != Some(LostBy::Operator) {
                    self.lost.insert(id, by);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use omnirun_events::host::HostLost;
    use omnirun_events::id::CommitId;
    use omnirun_events::keys::Digest;
    use omnirun_events::subject::Subject;
    use omnirun_events::unit::{Mebibytes, Vcpus};

    use super::*;

    const HOST: HostId = HostId::from_bytes([1; 16]);

    fn joined(certificate: u8) -> Event {
        let offer = HostJoined {
            address: "127.0.0.1:1".to_owned(),
            certificate: Digest([certificate; 32]),
            sandboxes_max: 1,
            vcpus_max: Vcpus(1),
            memory_max: Mebibytes(512),
            monitor: "none".to_owned(),
            templates: Vec::new(),
        };
        offer.into()
    }

    fn lost() -> Event {
        HostLost { operator: "o".to_owned(), reason: "r".to_owned() }.into()
    }

    /// Who has given up the host after that.
    fn after(events: &[(Actor, Event)]) -> Option<LostBy> {
        let (mut hosts, kind) = (Hosts::default(), SubjectKind::Host(HOST));
        let subject = Subject::from(kind);
        for (actor, event) in events {
            let (sequence, at, commit) = (Sequence(1), Timestamp(1), CommitId::from_bytes([1; 16]));
            hosts.apply(&Fact { sequence, subject: &subject, kind, at, actor: *actor, commit, event });
        }
        assert_eq!(hosts.present().count(), usize::from(hosts.lost(HOST).is_none()));
        hosts.lost(HOST)
    }

    #[test]
    fn a_host_whose_lease_was_over_is_back_when_it_joins_and_one_that_was_given_up_with_its_next_start() {
        let (host, operator) = (Actor::Host(HOST), Actor::Operator);
        let system = Actor::System(omnirun_events::Role::Commands);
        let start = |certificate| (host, joined(certificate));
        assert_eq!(after(&[start(1), (system, lost())]), Some(LostBy::Lease));
        assert_eq!(after(&[start(1), (system, lost()), start(1)]), None);
        assert_eq!(after(&[start(1), (operator, lost()), start(1)]), Some(LostBy::Operator));
        assert_eq!(after(&[start(1), (operator, lost()), start(2)]), None);
        let both = [start(1), (operator, lost()), (system, lost())];
        assert_eq!(after(&both), Some(LostBy::Operator), "what an operator has decided stays so");
    }
}
