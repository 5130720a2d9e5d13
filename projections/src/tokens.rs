//! Credentials: which verifier belongs to whom and may do what.

use std::collections::BTreeMap;

use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, CommitId, TokenId};
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::SubjectKind;
use omnirun_events::token::{RevokeReason, Scope, TokenCreated, TokenKind, TokenVerifier};
use omnirun_events::unit::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Fact;

/// One credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Whose.
    pub account: AccountId,
    /// What for.
    pub kind: TokenKind,
    /// What presented ones are compared with.
    pub verifier: TokenVerifier,
    /// What the user called it, sealed as field [`omnirun_events::token::NAME_FIELD`] of its subject.
    pub name: Option<Sealed>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Its checksum characters.
    pub hint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When and why it was revoked.
    pub revoked: Option<(Timestamp, RevokeReason)>,
    /// The commit that made it, by which a repeated wish is recognised.
    pub commit: CommitId,
}

impl Token {
    /// Whether it is good at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires_at.is_none_or(|expires| now < expires)
    }

    /// Whether it may do this.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// Every credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    tokens: BTreeMap<TokenId, Token>,
    by_verifier: BTreeMap<[u8; 32], TokenId>,
    by_account: BTreeMap<AccountId, Vec<TokenId>>,
}

impl Tokens {
    /// The credential with this id.
    pub fn get(&self, token: TokenId) -> Option<&Token> {
        self.tokens.get(&token)
    }

    /// The credential that a presented one with this verifier is; also one that is expired or revoked.
    pub fn find(&self, verifier: &TokenVerifier) -> Option<(TokenId, &Token)> {
        let id = self.by_verifier.get(&verifier.0)?;
        self.tokens.get(id).map(|token| (*id, token))
    }

    /// An account's credentials, oldest first.
    pub fn of(&self, account: AccountId) -> impl Iterator<Item = (TokenId, &Token)> {
        let ids = self.by_account.get(&account).into_iter().flatten();
        ids.filter_map(|id| self.tokens.get(id).map(|token| (*id, token)))
    }

    pub(crate) fn apply(&mut self, fact: &Fact<'_>) {
        let SubjectKind::Token(account, id) = fact.kind else { return };
        match fact.event {
            Event::TokenCreated(created) => self.create(account, id, created, fact),
            Event::TokenRevoked(revoked) => {
                if let Some(token) = self.tokens.get_mut(&id) {
                    token.revoked.get_or_insert((fact.at, revoked.reason));
                }
            }
            _ => {}
        }
    }

    pub(crate) fn drop_account(&mut self, account: AccountId) {
        for id in self.by_account.remove(&account).unwrap_or_default() {
            self.drop_one(id);
        }
    }

    pub(crate) fn drop_token(&mut self, token: TokenId) {
        let Some(account) = self.tokens.get(&token).map(|token| token.account) else { return };
        self.drop_one(token);
        if let Some(ids) = self.by_account.get_mut(&account) {
            ids.retain(|id| *id != token);
            if ids.is_empty() {
                self.by_account.remove(&account);
            }
        }
    }

    fn drop_one(&mut self, id: TokenId) {
        if let Some(token) = self.tokens.remove(&id)
            && self.by_verifier.get(&token.verifier.0) == Some(&id)
        {
            self.by_verifier.remove(&token.verifier.0);
        }
    }

    fn create(&mut self, account: AccountId, id: TokenId, created: &TokenCreated, fact: &Fact<'_>) {
        if self.tokens.contains_key(&id) {
            return;
        }
        let token = Token {
            account,
            kind: created.kind,
            verifier: created.verifier,
            name: created.name.clone(),
            scopes: created.scopes.clone(),
            hint: created.hint.clone(),
            created_at: fact.at,
            expires_at: created.expires_at,
            revoked: None,
            commit: fact.commit,
        };
        self.by_verifier.insert(created.verifier.0, id);
        self.by_account.entry(account).or_default().push(id);
        self.tokens.insert(id, token);
    }
}
