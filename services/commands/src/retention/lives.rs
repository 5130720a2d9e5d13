//! Ended sandboxes: their lives, what is left of their meters, and their requests, in one tombstone, so that no reader ever sees a request
//! without the life that followed it.

use std::collections::BTreeSet;

use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::log::Erase;
use omnirun_events::sandbox::AdmissionTrimmed;
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::Directory;
use omnirun_retention::sandboxes::{LastGoes, Life, expired};
use omnirun_retention::seen::GoesOn;
use omnirun_retention::{Burial, Trim};

use super::{Expired, RetentionError};
use crate::service::CommandService;

/// Around a sandbox's life, in which its readings may be dated: clocks of hosts differ.
const MARGIN: Millis = Millis(24 * 3600 * 1000);

impl CommandService {
    pub(super) async fn expire_lives(
        &self,
        erase: &dyn Erase,
        cutoff: Timestamp,
        expired: &mut Expired,
    ) -> Result<(), RetentionError> {
        let accounts = self.writer.directory.view(|directory, _| accounts_with_expired(directory, cutoff));
        for account in accounts {
            while let Some(gone) = self.expire_round(erase, account, cutoff, expired).await? {
                expired.sandboxes += gone;
            }
        }
        Ok(())
    }

    /// One round of one account; none if there is nothing left to do.
    async fn expire_round(
        &self,
        erase: &dyn Erase,
        account: AccountId,
        cutoff: Timestamp,
        gone: &mut Expired,
    ) -> Result<Option<u64>, RetentionError> {
        let admission = Subject::from(SubjectKind::Admission(account));
        self.writer.reach(std::slice::from_ref(&admission)).await?;
        let records = self.seen(Log::Events, Filter::exactly(&admission)).await?;
        let trim = self
            .writer
            .directory
            .view(|directory, _| expired(&records, |sandbox| life(directory, sandbox), cutoff));
        let Some(Trim { sandboxes, records: count, last_goes }) = trim else { return Ok(None) };
        if last_goes == LastGoes::Yes {
            self.append_as_system(SubjectKind::Admission(account), vec![AdmissionTrimmed {}.into()]).await?;
        }
        let mut burials = vec![Burial::none(Log::Events)];
        burials[0].bury(&records[..count], GoesOn::After);
        for sandbox in &sandboxes {
            self.bury_one(account, *sandbox, &mut burials).await?;
        }
        gone.records += self.bury_together(erase, &burials).await?;
        Ok(Some(sandboxes.len() as u64))
    }

    /// Adds everything of one ended sandbox to the burials of its logs.
    async fn bury_one(
        &self,
        account: AccountId,
        sandbox: SandboxId,
        burials: &mut Vec<Burial>,
    ) -> Result<(), RetentionError> {
        let mut subjects = vec![Subject::from(SubjectKind::Sandbox(account, sandbox))];
        let slots = self.writer.directory.view(|directory, _| slots(directory, sandbox));
        subjects.extend(slots.into_iter().map(|slot| SubjectKind::Usage(slot, account, sandbox).into()));
        for subject in subjects {
            let log = subject.log();
            if self.writer.reader.last(&subject).await?.is_none() {
                continue;
            }
            let records = self.seen(log, Filter::exactly(&subject)).await?;
            let place = burials.iter().position(|burial| burial.log == log).unwrap_or_else(|| {
                burials.push(Burial::none(log));
                burials.len() - 1
            });
            burials[place].bury(&records, GoesOn::Never);
        }
        Ok(())
    }
}

fn life(directory: &Directory, sandbox: SandboxId) -> Life {
    match directory.sandboxes.get(sandbox) {
        None => Life::Gone,
        Some(known) => known.ended_at.filter(|_| known.state.is_final()).map_or(Life::Alive, Life::Ended),
    }
}

/// Accounts of which a sandbox has expired. An account that is being erased loses everything anyway.
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
