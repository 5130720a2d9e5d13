//! LoseHost: an operator gives up a host that will not come back, or its lease is over. Its sandboxes end, each billed to the last moment that
//! was metered.
//!
//! HostLost is the decision; the ends follow from it, here and, should this process die between them, in the next look of
//! [`crate::reconcile`].

use omnirun_commands_api::{Code, Envelope, Outcome, Rejection, Reply};
use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::host::HostLost;
use omnirun_events::id::{CommitId, HostId, SandboxId};
use omnirun_events::sandbox::{SandboxStopped, StopReason};
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::Directory;
use omnirun_projections::hosts::LostBy;
use omnirun_projections::sandboxes::Sandbox;
use omnirun_runner::readings::last_reading;

use crate::decide::Decision;
use crate::decide::close::Acting;
use crate::failure::Failure;
use crate::service::CommandService;

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
    pub(super) async fn give_up(
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
            // Whoever has a key can claim and never join.
            if directory.hosts.get(host).is_none() && directory.sandboxes.on(host).next().is_none() {
                return Err(Rejection::new(Code::NotFound, "There is no such host."));
            }
            let outcome = Outcome::HostLost { ended: 0 };
            // An operator may give up for good what was only silent.
            let is_said = match directory.hosts.lost(host) {
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

    /// Ends the sandboxes of hosts that were given up; answers how many it was first to end. What is broken off goes on with the next call.
    pub async fn end_lost(&self) -> Result<u32, Failure> {
        let lost: Vec<(SandboxId, Sandbox)> = self.writer.directory.view(|directory, _| {
            let of_lost = |(_, sandbox): &(SandboxId, &Sandbox)| {
                sandbox.host.is_some_and(|host| directory.hosts.lost(host).is_some())
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
