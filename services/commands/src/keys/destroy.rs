//! The end of data keys. What was sealed under one is unreadable from then on, wherever it is stored.

use omnirun_events::id::AccountId;
use omnirun_events::log::{PAGE_RECORDS_MAX, Sequence, Tail};
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Filter, Log, Subject, SubjectKind};
use omnirun_events::unit::Millis;
use omnirun_projections::Directory;

use super::{DataKeys, subject_of};
use crate::failure::Failure;

/// A key that belongs to nothing that is known is left alone for so long: its first use may be under way.
const ORPHAN_AGE: Millis = Millis(3600 * 1000);

impl DataKeys {
    /// Destroys one key, if there is one. Broken off, it may still be there; [`Self::sweep`] finds those that nothing needs.
    pub async fn destroy(&self, account: AccountId, label: DataKeyLabel) -> Result<(), Failure> {
        self.purge(&subject_of(account, label)).await?;
        self.lock().remove(&(account, label));
        Ok(())
    }

    /// Destroys the keys that nothing needs: of accounts that do not exist, because they never came to be or are gone, and of addresses that
    /// an account had before. Answers how many there were. Whatever is held in memory is read anew from then on, so that a key which another
    /// process destroyed is in no process's memory after its next sweep.
    pub async fn sweep(&self) -> Result<u64, Failure> {
        self.lock().clear();
        let now = (self.clock)();
        let mut cursor = self.writer.reader.read(Log::Keys, Filter::all(), Sequence::NONE).await?;
        let mut destroyed = 0;
        loop {
            let page = cursor.next(PAGE_RECORDS_MAX, Tail::Return).await?;
            if page.records.is_empty() {
                return Ok(destroyed);
            }
            // Whoever is in the directory by now was there before the key was looked at, or came to be with it.
            self.writer.catch_up().await?;
            for stored in &page.records {
                let Some((record, _)) = self.writer.last(&stored.subject).await? else { continue };
                let is_old = record.header.at.after(ORPHAN_AGE) < now;
                let kind = stored.subject.kind();
                if is_old && self.writer.directory.view(|directory, _| is_needless(directory, kind)) {
                    self.purge(&stored.subject).await?;
                    destroyed += 1;
                }
            }
        }
    }

    async fn purge(&self, subject: &Subject) -> Result<(), Failure> {
        self.erase.purge_all(Log::Keys, Filter::exactly(subject)).await?;
        Ok(())
    }
}

fn is_needless(directory: &Directory, key: SubjectKind) -> bool {
    let known = key.account().and_then(|account| directory.accounts.get(account));
    match (known, key) {
        (None, _) => true,
        (Some(account), SubjectKind::AddressKey(_, version)) => {
            account.email.key != DataKeyLabel::Address(version)
        }
        _ => false,
    }
}
