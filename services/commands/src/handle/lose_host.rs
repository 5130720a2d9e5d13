//! LoseHost: an operator gives up a host that will not come back, or its lease is over. Its sandboxes end, each billed to the last moment that
//! was metered.
//!
//! HostLost is the decision; the ends follow from it, here and, should this process die between them, in the next look of
//! [`crate::reconcile`].

use std::collections::BTreeMap;

use omnirun_commands_api::{Code, Envelope, Outcome, Rejection, Reply};
use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::host::HostLost;
use omnirun_events::id::{CommitId, HostId, SandboxId};
use omnirun_events::sandbox::{SandboxStopped, StopReason};
use omnirun_events::subject::{Slot, Subject, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::Directory;
use omnirun_projections::hosts::LostBy;
use omnirun_projections::sandboxes::Sandbox;
use omnirun_runner::readings::{last_reading, last_reading_in};

use crate::decide::Decision;
use crate::decide::close::Acting;
use crate::failure::Failure;
use crate::leases::{Leases, Word};
use crate::service::CommandService;

/// What a usage slot lasts.
const WEEK: Millis = Millis(7 * 24 * 3600 * 1000);

impl CommandService {
    pub(crate) async fn lose_host(
        &self,
        envelope: &Envelope,
        host: HostId,
        operator: &str,
        reason: &str,
    ) -> Result<Reply, Failure> {
        if envelope.actor != Actor::Operator {
            return Err(Rejection::new(Code::NotFound, "Only an operator gives up a host.").into());
        }
        let Acting { operator, reason } = Acting::new(operator, reason)?;
        let commit = CommitId::derive(envelope.id.as_bytes(), "commit");
        let reply = self.give_up(host, commit, Actor::Operator, HostLost { operator, reason }).await?;
        let ended = self.end_lost().await?;
        Ok(Reply { outcome: Outcome::HostLost { ended }, ..reply })
    }

    /// Writes the decision down, once.
    async fn give_up(
        &self,
        host: HostId,
        commit: CommitId,
        actor: Actor,
        lost: HostLost,
    ) -> Result<Reply, Failure> {
        let subject = Subject::from(SubjectKind::Host(host));
        let draft = Draft {
            commit,
            subject: subject.clone(),
            at: (self.clock)(),
            actor,
            cause: None,
            events: vec![lost.into()],
        };
        let decide = |directory: &Directory| {
            let known = directory.hosts.get(host);
            let known = known.ok_or_else(|| Rejection::new(Code::NotFound, "There is no such host."))?;
            let outcome = Outcome::HostLost { ended: 0 };
            // An operator may give up for good what was only silent.
            let is_said = match known.lost {
                Some(LostBy::Operator) => true,
                Some(LostBy::Lease) => actor != Actor::Operator,
                None => false,
            };
            Ok(match is_said {
                true => Decision::Already(outcome),
                false => Decision::Write(vec![draft.clone()], outcome),
            })
        };
        let reply = self.writer.run(&[subject], decide).await?;
        if let Some(position) = reply.position {
            self.writer.reach_position(position.sequence).await?;
        }
        Ok(reply)
    }

    /// Gives up the hosts whose leases are over at `now`, the time since this process began to look; answers how many. Their sandboxes are
    /// [`Self::end_lost`]'s.
    pub async fn give_up_silent(&self, leases: &mut Leases, now: Millis) -> Result<usize, Failure> {
        let words = self.words().await.inspect_err(|_| leases.could_not_look())?;
        let silent = leases.look(now, words);
        for host in &silent {
            let Some(known) = self.writer.directory.view(|directory, _| directory.hosts.get(*host).cloned())
            else {
                continue;
            };
            tracing::error!(host = %host, "a host has said nothing for a whole lease and is given up with its sandboxes");
            metrics::counter!("omnirun_hosts_given_up_total").increment(1);
            // Each time that it has joined it can be given up once.
            let cause = [host.as_bytes().as_slice(), &known.joined_at.0.to_be_bytes()].concat();
            let (operator, reason) = ("the commands service".to_owned(), "its lease is over".to_owned());
            let (commit, actor) = (CommitId::derive(&cause, "lease"), Actor::System(Role::Commands));
            self.give_up(*host, commit, actor, HostLost { operator, reason }).await?;
        }
        Ok(silent.len())
    }

    /// What every host that has sandboxes has said by now, those that were given up excepted.
    async fn words(&self) -> Result<BTreeMap<HostId, Word>, Failure> {
        // A directory that is behind would have sandboxes that ended long ago.
        self.writer.catch_up().await?;
        let now = (self.clock)();
        // Readings are filed by their host's clock.
        let slots = [Timestamp(now.0.saturating_sub(WEEK.0)), now, now.after(WEEK)].map(Slot::of);
        let mut words = self.writer.directory.view(|directory, _| {
            let claimed = directory.sandboxes.live().filter_map(|(id, sandbox)| Some((sandbox.host?, id)));
            let mut words = BTreeMap::<HostId, Word>::new();
            for (host, sandbox) in claimed {
                let Some(known) = directory.hosts.get(host).filter(|known| known.lost.is_none()) else {
                    continue;
                };
                let new = || Word { joined_at: known.joined_at, readings: BTreeMap::new() };
                words.entry(host).or_insert_with(new).readings.insert(sandbox, 0);
            }
            words
        });
        let readings = words.values_mut().flat_map(|word| &mut word.readings);
        for (sandbox, period) in readings {
            let (reader, directory) = (&*self.writer.reader, &self.writer.directory);
            let last = last_reading_in(reader, directory, *sandbox, slots).await?;
            *period = last.map_or(0, |reading| reading.period);
        }
        Ok(words)
    }

    /// Ends the sandboxes of hosts that were given up; answers how many it was first to end. What is broken off goes on with the next call.
    pub async fn end_lost(&self) -> Result<u32, Failure> {
        let lost: Vec<(SandboxId, Sandbox)> = self.writer.directory.view(|directory, _| {
            let of_lost = |(_, sandbox): &(SandboxId, &Sandbox)| {
                let host = sandbox.host.and_then(|host| directory.hosts.get(host));
                host.is_some_and(|host| host.lost.is_some())
            };
            let live = directory.sandboxes.live().filter(of_lost);
            live.map(|(id, sandbox)| (id, sandbox.clone())).collect()
        });
        let mut ended = 0;
        for (id, sandbox) in &lost {
            let last = last_reading(&*self.writer.reader, &self.writer.directory, *id).await?;
            let now = (self.clock)();
            let stopped = SandboxStopped {
                reason: StopReason::HostLost,
                stopped_at: last.as_ref().map(|last| last.observed_at).or(sandbox.started_at).unwrap_or(now),
                meter: last.map(|last| last.meter).unwrap_or_default(),
                teardown: Millis::ZERO,
            };
            ended += u32::from(self.end_one(*id, sandbox, stopped, now).await?);
        }
        if ended > 0 {
            tracing::warn!(count = ended, "sandboxes ended because their host was given up");
        }
        Ok(ended)
    }

    /// Whether this was the one to end it.
    async fn end_one(
        &self,
        id: SandboxId,
        sandbox: &Sandbox,
        stopped: SandboxStopped,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let subject = Subject::from(SubjectKind::Sandbox(sandbox.account, id));
        let draft = Draft {
            commit: CommitId::derive(id.as_bytes(), "host-lost"),
            subject: subject.clone(),
            at: now,
            actor: Actor::System(Role::Commands),
            cause: None,
            events: vec![stopped.into()],
        };
        // Its host may have come back and said more meanwhile: then the end is said after that, or has been.
        let decide = |directory: &Directory| {
            let is_live = directory.sandboxes.get(id).is_some_and(|known| !known.state.is_final());
            Ok(match is_live {
                true => Decision::Write(vec![draft.clone()], Outcome::HostLost { ended: 1 }),
                false => Decision::Already(Outcome::HostLost { ended: 0 }),
            })
        };
        let reply = self.writer.run(&[subject], decide).await?;
        if let Some(position) = reply.position {
            self.writer.reach_position(position.sequence).await?;
        }
        Ok(matches!(reply.outcome, Outcome::HostLost { ended: 1 }))
    }
}
