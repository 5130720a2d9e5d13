//! Tombstones for what is left of accounts that are not there: of one that has just been closed, and of those for which a late host has said
//! something since.

use std::collections::BTreeSet;

use omnirun_events::codec;
use omnirun_events::erasure::{Cause, ChainStart, Positions, RecordsErased};
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, ReceiptId};
use omnirun_events::log::{Sequence, Stored, read_to_end};
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::unit::Timestamp;

use super::{LATE_WITHIN, LOOK_EVERY};
use crate::failure::Failure;
use crate::random;
use crate::service::CommandService;

/// What became of an account that no read model has.
enum Gone {
    /// Its last word is on the log.
    Closed(ReceiptId),
    /// Nothing is left but what came late.
    Erased,
    /// Its subject is there and is not closed: nothing of it may be touched.
    Not,
}

impl CommandService {
    /// Appends tombstones for what is left of accounts that were closed, now and then and right after one was.
    pub(super) async fn bury_strays(&self) -> Result<(), Failure> {
        let now = (self.clock)();
        if !self.is_time_to_look(now) {
            return Ok(());
        }
        let mut strays: BTreeSet<AccountId> = self.erasing.lately(now);
        self.writer.directory.view(|directory, verifier| {
            let accounts = verifier.subjects().filter_map(|(subject, _)| subject.kind().account());
            strays.extend(accounts.filter(|account| directory.accounts.get(*account).is_none()));
        });
        for account in strays {
            self.or_later(self.bury_stray(account).await);
        }
        self.erasing.has_looked(now);
        Ok(())
    }

    async fn bury_stray(&self, account: AccountId) -> Result<(), Failure> {
        match self.gone(account).await? {
            Gone::Closed(receipt) => self.bury(account, receipt).await,
            Gone::Erased => self.bury(account, ReceiptId::from_bytes(random::bytes(&self.random))).await,
            Gone::Not => {
                tracing::error!("records of an account that is neither open nor closed are left as they are");
                Ok(())
            }
        }
    }

    fn is_time_to_look(&self, now: Timestamp) -> bool {
        let looked_at = self.erasing.looked_at();
        looked_at.is_none_or(|at| now.since(at) >= LOOK_EVERY)
    }

    async fn gone(&self, account: AccountId) -> Result<Gone, Failure> {
        let subject = Subject::from(SubjectKind::Account(account));
        let Some((record, head)) = self.writer.last(&subject).await? else { return Ok(Gone::Erased) };
        let is_buried = self
            .writer
            .directory
            .view(|_, verifier| verifier.erased().covers(Log::Events, head.sequence, head.sequence));
        Ok(match record.events.last() {
            _ if is_buried => Gone::Erased,
            Some(Event::AccountClosed(closed)) => Gone::Closed(closed.receipt),
            _ => Gone::Not,
        })
    }

    /// Appends the tombstones of everything that there is of an account: meters first, so that EVENTS still says whose they are when they go.
    async fn bury(&self, account: AccountId, receipt: ReceiptId) -> Result<(), Failure> {
        let cause = Cause::Account { receipt };
        for log in Slot::all().map(Log::Usage).chain([Log::Events]) {
            let (positions, ends) = self.left(log, account).await?;
            for tombstone in RecordsErased::split(cause, log, &positions, &ends) {
                self.append_to_erasure(tombstone.into()).await?;
            }
        }
        Ok(())
    }

    /// What there is of an account in a log and under no tombstone, and the last record of each subject that a host may still append to.
    async fn left(&self, log: Log, account: AccountId) -> Result<(Positions, Vec<ChainStart>), Failure> {
        let all =
            read_to_end(self.writer.reader.as_ref(), log, filter_of(log, account), Sequence::NONE).await?;
        let known = self.writer.directory.view(|_, verifier| verifier.erased().clone());
        let left: Vec<&Stored> =
            all.iter().filter(|stored| !known.covers(log, stored.sequence, stored.sequence)).collect();
        let positions = left.iter().map(|stored| stored.sequence).collect();
        let mut ends = std::collections::HashMap::new();
        for stored in left {
            let is_hosts = matches!(stored.subject.kind(), SubjectKind::Sandbox(..) | SubjectKind::Usage(..));
            if is_hosts && let Ok(record) = codec::decode(&stored.record) {
                ends.insert(&stored.subject, ChainStart(record.header.version, record.hash()));
            }
        }
        let mut ends: Vec<ChainStart> = ends.into_values().collect();
        // The order of the log would say which subjects belong together.
        ends.sort_unstable_by_key(|end| end.1);
        Ok((positions, ends))
    }
}

/// An account's records in a log.
pub(super) fn filter_of(log: Log, account: AccountId) -> Filter {
    match log {
        Log::Usage(_) => Filter::usage_of(account),
        Log::Keys => Filter::keys_of(account),
        Log::Events | Log::Auth => Filter::account(account),
    }
}

impl super::Erasing {
    /// The accounts that this process closed a short while ago: their hosts' meters are in logs that no view of this service follows.
    fn lately(&self, now: Timestamp) -> BTreeSet<AccountId> {
        let mut looked = self.lock();
        looked.closed.retain(|_, at| now.since(*at) < LATE_WITHIN);
        looked.closed.keys().copied().collect()
    }
}
