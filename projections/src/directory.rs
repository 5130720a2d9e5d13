//! The directory: accounts, tokens, sandboxes and hosts in one state, so that a request sees them at one position.

use omnirun_events::event::Event;
use omnirun_events::id::AccountId;
use omnirun_events::subject::SubjectKind;
use serde::{Deserialize, Serialize};

use crate::accounts::Accounts;
use crate::erasures::Erasures;
use crate::hosts::Hosts;
use crate::sandboxes::Sandboxes;
use crate::standings::Standings;
use crate::tokens::Tokens;
use crate::{Fact, Fold};

/// What gateways, commands and workers decide by. Follows EVENTS unfiltered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Who exists.
    pub accounts: Accounts,
    /// Their credentials.
    pub tokens: Tokens,
    /// Their sandboxes.
    pub sandboxes: Sandboxes,
    /// Where those run.
    pub hosts: Hosts,
    /// What of their bills was closed and told.
    pub standings: Standings,
    /// What was erased, as far as anybody may still know.
    pub erasures: Erasures,
}

impl Fold for Directory {
    const NAME: &'static str = "directory";
    const VERSION: u32 = 5;

    fn apply(&mut self, fact: &Fact<'_>) {
        self.accounts.apply(fact);
        self.tokens.apply(fact);
        self.sandboxes.apply(fact);
        self.hosts.apply(fact);
        self.standings.apply(fact);
        self.erasures.apply(fact);
        match (fact.kind, fact.event) {
            (SubjectKind::Account(account), Event::AccountClosed(_)) => self.drop_account(account),
            // A credential that was made while its account was closing is as dead as those before it.
            (SubjectKind::Account(account) | SubjectKind::Token(account, _), _)
                if self.accounts.is_closing(account) =>
            {
                self.tokens.drop_account(account);
            }
            _ => {}
        }
    }

    fn forget(&mut self, subject: SubjectKind) {
        match subject {
            SubjectKind::Account(account) => self.drop_account(account),
            SubjectKind::Admission(account) => self.sandboxes.drop_account(account),
            SubjectKind::Billing(account) => self.standings.drop_account(account),
            SubjectKind::Token(_, token) => self.tokens.drop_token(token),
            SubjectKind::Sandbox(_, sandbox) => self.sandboxes.drop_sandbox(sandbox),
            _ => {}
        }
    }
}

impl Directory {
    /// Nothing is left of a closed account, in no index either.
    fn drop_account(&mut self, account: AccountId) {
        self.accounts.drop_account(account);
        self.tokens.drop_account(account);
        self.sandboxes.drop_account(account);
        self.standings.drop_account(account);
    }
}
