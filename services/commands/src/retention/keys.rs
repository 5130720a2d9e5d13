//! Keys of free text: what was sealed under the key of a day is unreadable everywhere, in old copies of the log too, once it is destroyed.

use std::collections::BTreeMap;

use omnirun_billing::calendar::Date;
use omnirun_events::id::AccountId;
use omnirun_events::keys::DataKeysDestroyed;
use omnirun_events::log::{PAGE_RECORDS_MAX, Sequence, Tail};
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Filter, Log, Subject, SubjectKind};
use omnirun_events::unit::Timestamp;
use omnirun_retention::texts::key_goes;

use super::{Expired, RetentionError};
use crate::failure::Failure;
use crate::service::CommandService;

impl CommandService {
    pub(super) async fn expire_keys(
        &self,
        now: Timestamp,
        expired: &mut Expired,
    ) -> Result<(), RetentionError> {
        let keys = self.plan_keys(now).await?;
        if keys.is_empty() {
            return Ok(());
        }
        // Held until they are gone: an epoch that began in between would wrap them anew.
        let _turn = self.master.turn().await.map_err(Failure::from)?;
        // First: broken off, the master key is rotated for those that are gone.
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        self.append_as_system(SubjectKind::Erasure, vec![DataKeysDestroyed { count }.into()]).await?;
        for (account, label) in keys.into_values() {
            self.keys.destroy(account, label).await?;
            expired.keys += 1;
        }
        Ok(())
    }

    /// The keys that go, by their subjects.
    pub(super) async fn plan_keys(
        &self,
        now: Timestamp,
    ) -> Result<BTreeMap<Subject, (AccountId, DataKeyLabel)>, RetentionError> {
        let filter = Filter::from_text("key.*.*");
        let mut cursor = self.writer.reader.read(Log::Keys, filter, Sequence::NONE).await?;
        let mut keys = BTreeMap::new();
        loop {
            let page = cursor.next(PAGE_RECORDS_MAX, Tail::Return).await?;
            if page.records.is_empty() {
                return Ok(keys);
            }
            // A key has a record for each time that it was wrapped.
            for stored in page.records {
                if let Some((day, key)) = of_texts(stored.subject.kind())
                    && key_goes(day.start(), now)
                {
                    keys.insert(stored.subject, key);
                }
            }
        }
    }
}

/// A key of free text and the last day of which it sealed some.
fn of_texts(kind: SubjectKind) -> Option<(Date, (AccountId, DataKeyLabel))> {
    match kind {
        SubjectKind::DayKey(account, day) => {
            Some((Date::from_yyyymmdd(day)?, (account, DataKeyLabel::Day(day))))
        }
        SubjectKind::MonthKey(account, month) => {
            Some((Date::last_of_yyyymm(month)?, (account, DataKeyLabel::Month(month))))
        }
        _ => None,
    }
}
