//! What a run would remove, all of it, before anything is: for an operator who looks at it and then has exactly that carried out.

use std::collections::BTreeMap;

use omnirun_commands_api::command::RetentionPlan;
use omnirun_commands_api::{Code, Outcome, Rejection, Reply};
use omnirun_events::envelope::Actor;
use omnirun_events::erasure::Positions;
use omnirun_events::keys::Digest;
use omnirun_events::log::Erase;
use omnirun_events::subject::{Log, Slot, Subject};
use omnirun_events::unit::Timestamp;
use omnirun_retention::{Burial, cutoff};
use sha2::Digest as _;

use super::lives::Round;
use super::usage::Reach;
use super::{Expired, RetentionError};
use crate::failure::{Failure, busy};
use crate::service::CommandService;

/// What goes at one time.
struct Planned {
    burials: Vec<Burial>,
    sandboxes: u64,
    keys: Vec<Subject>,
}

impl Planned {
    /// SHA-256 of the tombstones that would be written and the keys that would be destroyed, in order.
    fn hash(&self) -> Digest {
        let tombstones: Vec<_> = self.burials.iter().flat_map(Burial::tombstones).collect();
        let bytes = rmp_serde::to_vec_named(&(tombstones, &self.keys));
        Digest(sha2::Sha256::digest(bytes.expect("positions, hashes and texts always encode")).into())
    }

    fn summary(&self) -> RetentionPlan {
        // A reading may go by its own age and with its sandbox: it is counted once.
        let mut records: BTreeMap<Log, Positions> = BTreeMap::new();
        for burial in &self.burials {
            let positions = records.entry(burial.log).or_default();
            burial.positions.spans().for_each(|span| positions.insert(span));
        }
        RetentionPlan {
            hash: self.hash(),
            records: records.into_iter().map(|(log, positions)| (log, positions.count())).collect(),
            sandboxes: self.sandboxes,
            keys: self.keys.len() as u64,
        }
    }
}

impl CommandService {
    pub(crate) async fn plan_retention(&self, actor: Actor) -> Result<Reply, Failure> {
        must_be_operator(actor)?;
        let planned = self.planned((self.clock)()).await.map_err(failed)?;
        Ok(Reply { position: None, outcome: Outcome::RetentionPlanned(planned.summary()) })
    }

    /// Carries out the plan with this hash, if it is still what goes: nothing else was looked at.
    pub(crate) async fn apply_retention(&self, actor: Actor, hash: Digest) -> Result<Reply, Failure> {
        must_be_operator(actor)?;
        let erase: &dyn Erase = &*self.erasing.erase;
        if self.planned((self.clock)()).await.map_err(failed)?.hash() != hash {
            let message =
                "What goes is another by now than what this hash is of. Nothing was removed; plan again.";
            return Err(Rejection::new(Code::Invalid, message).into());
        }
        let Expired { records, sandboxes, keys, failures } = self.expire(erase).await;
        if failures > 0 {
            return Err(busy("Some of it could not be removed; the log of the commands service says why."));
        }
        Ok(Reply { position: None, outcome: Outcome::RetentionApplied { records, sandboxes, keys } })
    }

    async fn planned(&self, now: Timestamp) -> Result<Planned, RetentionError> {
        let mut planned = Planned { burials: Vec::new(), sandboxes: 0, keys: Vec::new() };
        for log in Slot::all().map(Log::Usage) {
            planned.burials.extend(self.plan_usage(log, Reach::Whole, now, usize::MAX).await?);
        }
        for account in self.accounts_with_expired(cutoff(now)) {
            for Round { sandboxes, meters, lives, .. } in self.plan_account(account, cutoff(now)).await? {
                planned.sandboxes += sandboxes;
                planned.burials.extend(meters);
                planned.burials.push(lives);
            }
        }
        planned.keys = self.plan_keys(now).await?.into_keys().collect();
        Ok(planned)
    }
}

fn must_be_operator(actor: Actor) -> Result<(), Rejection> {
    match actor {
        Actor::Operator => Ok(()),
        _ => Err(Rejection::new(Code::NotFound, "Only an operator plans what is removed.")),
    }
}

fn failed(error: RetentionError) -> Failure {
    super::complain(&error);
    busy("What has expired cannot be read now; nothing was removed. Try again.")
}
