//! Accounts: who exists, with the address still sealed.

use std::collections::BTreeMap;

use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, ReceiptId};
use omnirun_events::log::Sequence;
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Fact;
use crate::plans::PlanNames;

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Since when; its month of billing starts on this day of the month.
    pub opened_at: Timestamp,
    /// The names of its plans.
    pub plans: PlanNames,
    /// Its address, sealed as field [`omnirun_events::account::EMAIL_FIELD`] of its account subject.
    pub email: Sealed,
    /// How far its erasure is, once that was asked for.
    pub closing: Option<Closing>,
}

/// An erasure on its way. Which step is next follows from what is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Names it.
    pub receipt: ReceiptId,
    /// Since when.
    pub since: Timestamp,
    /// Position in EVENTS at which all its sandboxes were final.
    pub quiet_at: Option<Sequence>,
    /// Whether the person was told, or telling was given up.
    pub is_receipt_issued: bool,
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

    /// The account with this id, unless it is being erased: nothing new is admitted for that.
    pub fn get_open(&self, account: AccountId) -> Option<&Account> {
        self.get(account).filter(|account| account.closing.is_none())
    }

    /// The accounts that are being erased, by id.
    pub fn closing(&self) -> impl Iterator<Item = (AccountId, &Closing)> {
        self.iter().filter_map(|(id, account)| Some((id, account.closing.as_ref()?)))
    }

    /// Whether an account is being erased.
    pub fn is_closing(&self, account: AccountId) -> bool {
        self.get(account).is_some_and(|account| account.closing.is_some())
    }

    pub(crate) fn apply(&mut self, fact: &Fact<'_>) {
        let SubjectKind::Account(id) = fact.kind else { return };
        if let Event::AccountOpened(opened) = fact.event {
            self.accounts.entry(id).or_insert_with(|| Account {
                opened_at: fact.at,
                plans: PlanNames::opened(&opened.plan),
                email: opened.email.clone(),
                closing: None,
            });
        }
        let Some(account) = self.accounts.get_mut(&id) else { return };
        match fact.event {
            Event::PlanChanged(changed) => account.plans.change(changed),
            Event::EmailChanged(changed) => account.email = changed.email.clone(),
            _ => account.follow_closing(fact),
        }
    }

    pub(crate) fn drop_account(&mut self, account: AccountId) {
        self.accounts.remove(&account);
    }
}

impl Account {
    fn follow_closing(&mut self, fact: &Fact<'_>) {
        match (fact.event, &mut self.closing) {
            (Event::AccountClosing(closing), closed @ None) => {
                *closed = Some(Closing {
                    receipt: closing.receipt,
                    since: fact.at,
                    quiet_at: None,
                    is_receipt_issued: false,
                });
            }
            (Event::AccountQuiet(_), Some(closing)) => {
                closing.quiet_at.get_or_insert(fact.sequence);
            }
            (Event::ReceiptIssued(_), Some(closing)) => closing.is_receipt_issued = true,
            _ => {}
        }
    }
}
