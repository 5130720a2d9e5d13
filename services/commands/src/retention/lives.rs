//! Ended sandboxes: what is left of their meters, and then their lives and their requests, in one record of tombstones, so that no reader ever
//! sees a request without the life that followed it.

use std::collections::BTreeSet;

use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::log::{Erase, Sequence, Stored, read_to_end};
use omnirun_events::sandbox::AdmissionTrimmed;
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::Directory;
use omnirun_retention::sandboxes::{LastGoes, Life, ROUND, expired};
use omnirun_retention::seen::GoesOn;
use omnirun_retention::usage::READ_WITHIN;
use omnirun_retention::{Burial, Seen, Trim};

use super::carry::TOMBSTONES;
use super::{Expired, RetentionError};
use crate::service::CommandService;

/// Around a sandbox's life, in which its readings may be dated: clocks of hosts differ.
const MARGIN: Millis = Millis(24 * 3600 * 1000);

/// What goes of an account in one round.
#[derive(Debug)]
pub(super) struct Round {
    pub sandboxes: u64,
    /// Whether the last record of the admission subject is among those that go.
    last_goes: LastGoes,
    /// What is left of the sandboxes' meters, by log.
    pub meters: Vec<Burial>,
    /// The sandboxes' lives and requests.
    pub lives: Burial,
}

impl CommandService {
    /// Accounts of which a sandbox has expired. An account that is being erased loses everything anyway.
    pub(super) fn accounts_with_expired(&self, cutoff: Timestamp) -> Vec<AccountId> {
        self.writer.directory.view(|directory, _| accounts_with_expired(directory, cutoff))
    }

    pub(super) async fn expire_account(
        &self,
        erase: &dyn Erase,
        account: AccountId,
        cutoff: Timestamp,
        expired: &mut Expired,
    ) -> Result<(), RetentionError> {
        for round in self.plan_account(account, cutoff).await? {
            if round.last_goes == LastGoes::Yes {
                self.append_as_system(SubjectKind::Admission(account), vec![AdmissionTrimmed {}.into()])
                    .await?;
            }
            // Meters first, log by log: a life without meters is understood, meters without a life are not.
            for burial in round.meters.iter().chain([&round.lives]) {
                expired.records += self.carry_out(erase, burial).await?;
            }
            expired.sandboxes += round.sandboxes;
        }
        Ok(())
    }

    /// Everything that goes of an account, round by round. The tombstones of one round's lives fit into one record.
    pub(super) async fn plan_account(
        &self,
        account: AccountId,
        cutoff: Timestamp,
    ) -> Result<Vec<Round>, RetentionError> {
        let admission = Subject::from(SubjectKind::Admission(account));
        self.writer.reach(std::slice::from_ref(&admission)).await?;
        let records: Vec<Seen> = self.stored(&admission).await?.iter().filter_map(Seen::of).collect();
        let (mut rounds, mut gone, mut from, mut most) = (Vec::new(), BTreeSet::new(), 0, ROUND);
        loop {
            let trim = self.writer.directory.view(|directory, _| {
                let life = |sandbox| match gone.contains(&sandbox) {
                    true => Life::Gone,
                    false => life(directory, sandbox),
                };
                expired(&records[from..], life, cutoff, most)
            });
            let Some(Trim { sandboxes, records: count, last_goes }) = trim else { return Ok(rounds) };
            let mut lives = Burial::none(Log::Events);
            lives.bury(&records[from..from + count], GoesOn::After);
            let mut meters = Vec::new();
            for sandbox in &sandboxes {
                self.bury_one(account, *sandbox, &mut lives, &mut meters).await?;
            }
            // Nobody may see a part of it. Lives are short, so that one alone always fits.
            if lives.tombstones().len() > TOMBSTONES && sandboxes.len() > 1 {
                most = sandboxes.len() / 2;
                continue;
            }
            rounds.push(Round { sandboxes: sandboxes.len() as u64, last_goes, meters, lives });
            gone.extend(sandboxes);
            from += count;
        }
    }

    /// Adds everything of one ended sandbox to the burials of its logs.
    async fn bury_one(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        lives: &mut Burial,
        meters: &mut Vec<Burial>,
    ) -> Result<(), RetentionError> {
        lives.bury_whole(&self.stored(&SubjectKind::Sandbox(account, sandbox).into()).await?);
        let slots = self.writer.directory.view(|directory, _| slots(directory, sandbox));
        for slot in slots {
            let subject = Subject::from(SubjectKind::Usage(slot, account, sandbox));
            if self.writer.reader.last(&subject).await?.is_none() {
                continue;
            }
            let readings = self.stored(&subject).await?;
            let log = Log::Usage(slot);
            let place = meters.iter().position(|burial| burial.log == log).unwrap_or_else(|| {
                meters.push(Burial::none(log));
                meters.len() - 1
            });
            meters[place].bury_whole(&readings);
        }
        Ok(())
    }

    async fn stored(&self, subject: &Subject) -> Result<Vec<Stored>, RetentionError> {
        let (reader, filter) = (&*self.writer.reader, Filter::exactly(subject));
        Ok(read_to_end(reader, subject.log(), filter, Sequence::NONE).await?)
    }
}

/// The moment that it ended is its host's word, whose clock may be anywhere; when it was requested is ours.
fn life(directory: &Directory, sandbox: SandboxId) -> Life {
    let Some(known) = directory.sandboxes.get(sandbox) else { return Life::Gone };
    let Some(ended_at) = known.ended_at.filter(|_| known.state.is_final()) else { return Life::Alive };
    Life::Ended(ended_at.clamp(known.requested_at, known.requested_at.after(READ_WITHIN)))
}

fn accounts_with_expired(directory: &Directory, cutoff: Timestamp) -> Vec<AccountId> {
    let has_expired = |account: AccountId| {
        let mut sandboxes = directory.sandboxes.of(account);
        sandboxes.any(|(id, _)| matches!(life(directory, id), Life::Ended(at) if at < cutoff))
    };
    let accounts = directory.accounts.iter().filter(|(_, account)| account.closing.is_none());
    accounts.map(|(id, _)| id).filter(|id| has_expired(*id)).collect()
}

/// The usage logs that a sandbox may have readings in.
fn slots(directory: &Directory, sandbox: SandboxId) -> BTreeSet<Slot> {
    let Some(known) = directory.sandboxes.get(sandbox) else { return BTreeSet::new() };
    let end = known.ended_at.unwrap_or(known.requested_at).after(MARGIN);
    let mut at = Timestamp(known.requested_at.0.saturating_sub(MARGIN.0));
    let mut slots = BTreeSet::from([Slot::of(end)]);
    // A session is a week at most; whatever a damaged clock says, there are fourteen logs.
    for _ in 0..omnirun_events::subject::USAGE_SLOTS {
        if at > end {
            break;
        }
        slots.insert(Slot::of(at));
        at = at.after(Millis(6 * MARGIN.0));
    }
    slots
}
