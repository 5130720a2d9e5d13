//! Keys of free text: what was sealed under a month's key is unreadable everywhere, in old copies of the log too, once it is destroyed.

use omnirun_billing::calendar::Date;
use omnirun_events::log::Erase;
use omnirun_events::sealing::DataKeyLabel;
use omnirun_events::subject::{Filter, Log, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_retention::months::key_goes;
use omnirun_retention::seen::GoesOn;
use omnirun_retention::{Burial, Seen};

use super::{Expired, RetentionError};
use crate::service::CommandService;

/// How long after its end a month may still get a sandbox: clocks differ, and a request takes a moment.
const SETTLED: Millis = Millis(7 * 24 * 3600 * 1000);

impl CommandService {
    pub(super) async fn expire_keys(
        &self,
        erase: &dyn Erase,
        expired: &mut Expired,
    ) -> Result<(), RetentionError> {
        let lately = Timestamp((self.clock)().0.saturating_sub(SETTLED.0));
        let stored = self.seen(Log::Keys, Filter::from_text("key.*.*")).await?;
        for record in stored {
            let SubjectKind::MonthKey(account, month) = record.subject.kind() else { continue };
            let goes = self.writer.directory.view(|directory, _| {
                let kept = directory.sandboxes.of(account);
                let kept = kept.map(|(_, sandbox)| Date::of(sandbox.requested_at).yyyymm());
                key_goes(month, Date::of(lately).yyyymm(), kept)
            });
            if goes {
                self.destroy(erase, &record).await?;
                self.keys.forget(account, DataKeyLabel::Month(month));
                expired.keys += 1;
            }
        }
        Ok(())
    }

    async fn destroy(&self, erase: &dyn Erase, key: &Seen) -> Result<(), RetentionError> {
        let mut burial = Burial::none(Log::Keys);
        burial.bury(std::slice::from_ref(key), GoesOn::Never);
        self.bury(erase, &burial).await.map(drop)
    }
}
