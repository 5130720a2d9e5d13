//! Sweeping: removes what tombstones name and a store still holds, because whoever wrote them was cut off before it had removed it.

use std::collections::BTreeMap;

use omnirun_events::log::{Erase, PAGE_RECORDS_MAX, Sequence, Tail};
use omnirun_events::subject::{Filter, Log, Subject};

use super::RetentionError;
use crate::service::CommandService;

impl CommandService {
    /// Removes every record that a tombstone names and that is still there; answers how many there were. Reads every kept log once.
    pub async fn sweep(&self, erase: &dyn Erase) -> Result<u64, RetentionError> {
        self.writer.catch_up().await?;
        let erased = self.writer.directory.view(|_, verifier| verifier.erased().clone());
        let mut removed = 0;
        for log in Log::kept() {
            let mut left: BTreeMap<Subject, Sequence> = BTreeMap::new();
            let mut cursor = self.writer.reader.read(log, Filter::all(), Sequence::NONE).await?;
            loop {
                let page = cursor.next(PAGE_RECORDS_MAX, Tail::Return).await?;
                if page.records.is_empty() {
                    break;
                }
                // What the system says of itself stays, whatever a tombstone names.
                let named = page.records.into_iter().filter(|stored| {
                    stored.subject.kind().account().is_some()
                        && erased.covers(log, stored.sequence, stored.sequence)
                });
                left.extend(named.map(|stored| (stored.subject, stored.sequence)));
            }
            for (subject, through) in left {
                removed += erase.purge_through(&subject, through).await?;
            }
        }
        if removed > 0 {
            tracing::info!(records = removed, "what an earlier run had buried is gone");
        }
        Ok(removed)
    }
}
