//! Keys of free text: what was sealed under a month's key is unreadable everywhere, in old copies of the log too, once it is destroyed.

use std::collections::BTreeSet;

use omnirun_billing::calendar::Date;
use omnirun_events::log::{Sequence, read_to_end};
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Filter, Log, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_retention::months::key_goes;

use super::{Expired, RetentionError};
use crate::service::CommandService;

/// How long after its end a month may still get a sandbox: clocks differ, and a request takes a moment.
const SETTLED: Millis = Millis(7 * 24 * 3600 * 1000);

impl CommandService {
    pub(super) async fn expire_keys(&self, expired: &mut Expired) -> Result<(), RetentionError> {
        let lately = Timestamp((self.clock)().0.saturating_sub(SETTLED.0));
        let filter = Filter::from_text("key.*.*");
        let stored = read_to_end(&*self.writer.reader, Log::Keys, filter, Sequence::NONE).await?;
        // A key has a record for each time that it was wrapped.
        let months: BTreeSet<_> = stored
            .iter()
            .filter_map(|stored| match stored.subject.kind() {
                SubjectKind::MonthKey(account, month) => Some((account, month)),
                _ => None,
            })
            .collect();
        for (account, month) in months {
            let goes = self.writer.directory.view(|directory, _| {
                let kept = directory.sandboxes.of(account);
                let kept = kept.map(|(_, sandbox)| Date::of(sandbox.requested_at).yyyymm());
                key_goes(month, Date::of(lately).yyyymm(), kept)
            });
            if goes {
                self.keys.destroy(account, DataKeyLabel::Month(month)).await?;
                expired.keys += 1;
            }
        }
        Ok(())
    }
}
