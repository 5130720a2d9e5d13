//! Removing what tombstones name. Who starts after a crash knows positions and not whose they are: the first record that is still there says so.

use std::collections::HashMap;

use omnirun_events::erasure::{ErasureFinished, Positions};
use omnirun_events::id::{AccountId, ReceiptId};
use omnirun_events::log::{Sequence, Tail, read_to_end};
use omnirun_events::subject::{Filter, Log};

use super::bury::filter_of;
use crate::failure::Failure;
use crate::service::CommandService;

/// Records that are looked at for each range: the first that is there is enough.
const LOOK_RECORDS: usize = 1;

impl CommandService {
    /// Removes the records of every erasure that is not finished, and says that it is.
    pub(super) async fn remove_buried(&self) -> Result<(), Failure> {
        let unfinished: Vec<(ReceiptId, Vec<(Log, Positions)>)> =
            self.writer.directory.view(|directory, _| {
                let all = directory.erasures.unfinished();
                all.map(|(receipt, logs)| (receipt, logs.clone().into_iter().collect())).collect()
            });
        for (receipt, logs) in unfinished {
            self.or_later(self.finish(receipt, &logs).await);
        }
        Ok(())
    }

    async fn finish(&self, receipt: ReceiptId, logs: &[(Log, Positions)]) -> Result<(), Failure> {
        let mut removed = 0;
        for (log, positions) in logs {
            // Each erasure is one account's: with the first record that is left, all are found.
            if let Some(account) = self.owner_of(*log, positions).await? {
                removed += self.remove(*log, account, positions).await?;
                // A key that was made by a request which had begun before the account was closing.
                self.erasing.erase.purge_all(Log::Keys, Filter::keys_of(account)).await?;
            }
        }
        self.append_to_erasure(ErasureFinished { receipt }.into()).await?;
        tracing::info!(%receipt, records = removed, "an account was erased");
        Ok(())
    }

    /// Whose the first record is that is still there at one of these positions.
    async fn owner_of(&self, log: Log, positions: &Positions) -> Result<Option<AccountId>, Failure> {
        for span in positions.spans() {
            let before = Sequence(span.0.0.saturating_sub(1));
            let mut cursor = self.writer.reader.read(log, Filter::all(), before).await?;
            let page = cursor.next(LOOK_RECORDS, Tail::Return).await?;
            let found = page.records.first().filter(|stored| stored.sequence <= span.last());
            if let Some(account) = found.and_then(|stored| stored.subject.kind().account()) {
                return Ok(Some(account));
            }
        }
        Ok(None)
    }

    /// Removes what there is of an account at these positions, and nothing else: what came later has no tombstone yet.
    async fn remove(&self, log: Log, account: AccountId, positions: &Positions) -> Result<u64, Failure> {
        let all =
            read_to_end(self.writer.reader.as_ref(), log, filter_of(log, account), Sequence::NONE).await?;
        let mut ends = HashMap::new();
        for stored in all.into_iter().filter(|stored| positions.contains(stored.sequence)) {
            ends.insert(stored.subject, stored.sequence);
        }
        let mut removed = 0;
        for (subject, through) in ends {
            removed += self.erasing.erase.purge_through(&subject, through).await?;
        }
        Ok(removed)
    }
}
