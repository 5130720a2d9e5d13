//! Standings: what of an account's bills was closed, corrected and told, so that a writer does none of it twice. Amounts are in
//! `projections/billing`.

use std::collections::BTreeMap;

use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, CommitId};
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Fact;

/// Corrections of one account that are remembered: a repeated command is a retry and comes soon.
const CORRECTIONS_KEPT: usize = 8;

/// One account's bills.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Days before this one are closed.
    pub closed_through: Timestamp,
    /// The closed months by their first moment, each with the commit that closed it.
    pub closed: BTreeMap<Timestamp, CommitId>,
    /// The latest month that the account was told about, and the highest percentage that it was told.
    pub noticed: Option<(Timestamp, u8)>,
    /// The commits of the latest corrections, oldest first.
    pub corrections: Vec<CommitId>,
}

/// Every account's bills.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standings {
    accounts: BTreeMap<AccountId, Standing>,
}

impl Standings {
    /// An account's bills, if anything was ever said about them.
    pub fn of(&self, account: AccountId) -> Option<&Standing> {
        self.accounts.get(&account)
    }

    pub(crate) fn drop_account(&mut self, account: AccountId) {
        self.accounts.remove(&account);
    }

    pub(crate) fn apply(&mut self, fact: &Fact<'_>) {
        let SubjectKind::Billing(account) = fact.kind else { return };
        let standing = self.accounts.entry(account).or_default();
        match fact.event {
            Event::StatementClosed(statement) if statement.start >= standing.closed_through => {
                standing.closed_through = statement.end;
                standing.closed.insert(statement.start, fact.commit);
            }
            Event::StatementCorrected(_) => {
                if standing.corrections.len() == CORRECTIONS_KEPT {
                    standing.corrections.remove(0);
                }
                standing.corrections.push(fact.commit);
            }
            Event::UsageNoticed(noticed) => {
                standing.noticed = standing.noticed.max(Some((noticed.start, noticed.percent)));
            }
            _ => {}
        }
    }
}
