//! The directory: accounts, tokens, sandboxes and hosts in one state, so that a request sees them at one position.

use serde::{Deserialize, Serialize};

use crate::accounts::Accounts;
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
}

impl Fold for Directory {
    const NAME: &'static str = "directory";
    const VERSION: u32 = 2;

    fn apply(&mut self, fact: &Fact<'_>) {
        self.accounts.apply(fact);
        self.tokens.apply(fact);
        self.sandboxes.apply(fact);
        self.hosts.apply(fact);
        self.standings.apply(fact);
    }
}
