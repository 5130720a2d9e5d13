//! Accounts: who exists, with the address still sealed.

use std::collections::BTreeMap;

use omnirun_events::event::Event;
use omnirun_events::id::AccountId;
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Fact;

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Since when; its month of billing starts on this day of the month.
    pub opened_at: Timestamp,
    /// Name of its plan.
    pub plan: String,
    /// Its address, sealed as field [`omnirun_events::account::EMAIL_FIELD`] of its account subject.
    pub email: Sealed,
}

/// Every account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    accounts: BTreeMap<AccountId, Account>,
}

impl Accounts {
    /// The account with this id.
    pub fn get(&self, account: AccountId) -> Option<&Account> {
        self.accounts.get(&account)
    }

    /// Every account, by id.
    pub fn iter(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        self.accounts.iter().map(|(id, account)| (*id, account))
    }

    pub(crate) fn apply(&mut self, fact: &Fact<'_>) {
        let SubjectKind::Account(id) = fact.kind else { return };
        match fact.event {
            Event::AccountOpened(opened) => {
                self.accounts.entry(id).or_insert_with(|| Account {
                    opened_at: fact.at,
                    plan: opened.plan.clone(),
                    email: opened.email.clone(),
                });
            }
            Event::EmailChanged(changed) => {
                if let Some(account) = self.accounts.get_mut(&id) {
                    account.email = changed.email.clone();
                }
            }
            _ => {}
        }
    }
}
