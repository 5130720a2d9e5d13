//! Whether bills keep up with retention. Readings go on their 90th day, billed or not: whoever removes them says so in time, also where the
//! projector, which looks at the same from its own side, is not running.

use omnirun_billing::Period;
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::Directory;

use crate::service::CommandService;

/// From a month's end until it is an alarm that the month is not closed.
pub const ALARM: Millis = Millis(30 * 24 * 3600 * 1000);

impl CommandService {
    /// Raises an alarm if a month in which a sandbox ran, and which ended 30 days ago, is not closed.
    pub(super) fn report_unbilled(&self, now: Timestamp) {
        let behind = self.writer.directory.view(|directory, _| unbilled(directory, now));
        metrics::gauge!("omnirun_retention_unbilled_seconds").set((behind.0 / 1000) as f64);
        if behind >= ALARM {
            tracing::error!(
                days = behind.0 / (24 * 3600 * 1000),
                "a month that ended long ago is not closed; its readings go on their 90th day, billed or not"
            );
        }
    }
}

/// How long the oldest month has been over in which a sandbox ran and which is not closed. Months without use are never closed.
pub fn unbilled(directory: &Directory, now: Timestamp) -> Millis {
    let of_account = |(id, account): (_, &omnirun_projections::accounts::Account)| {
        let closed = directory.standings.of(id).map(|standing| standing.closed_through).unwrap_or_default();
        let ran = directory.sandboxes.of(id).filter(|(_, sandbox)| sandbox.started_at.is_some());
        let ends = ran.map(|(_, sandbox)| sandbox.ended_at.unwrap_or(now)).filter(|end| *end >= closed);
        ends.map(|end| now.since(Period::of(account.opened_at, end).end)).max()
    };
    directory.accounts.iter().filter_map(of_account).max().unwrap_or_default()
}
