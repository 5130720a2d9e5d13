//! When each credential was last used, in memory alone: an event for each request would be a diary of its owner.
//!
//! Each gateway knows what it has seen itself since its start, as far as its memory reaches. A session that it does not know of counts as used
//! when it was made or at the time since when all are known, whichever is later, so that neither a restart nor a full memory signs anybody
//! out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use omnirun_events::id::TokenId;
use omnirun_events::token::TokenKind;
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::tokens::Token;

use crate::gateway::Shared;

/// Credentials that are remembered, at most; beyond that those that were not used for longest are forgotten, a half at once.
const REMEMBERED_MAX: usize = 100_000;

/// When credentials were last used.
pub(crate) struct LastUsed(Mutex<Known>);

struct Known {
    /// Whatever was used after this is in `at`.
    since: Timestamp,
    at: HashMap<TokenId, Timestamp>,
}

impl LastUsed {
    /// Nothing is known from before `since`.
    pub fn new(since: Timestamp) -> Self {
        Self(Mutex::new(Known { since, at: HashMap::new() }))
    }

    /// It is used at `now`.
    pub fn touch(&self, token: TokenId, now: Timestamp) {
        let mut known = self.lock();
        let Known { since, at } = &mut *known;
        if at.len() >= REMEMBERED_MAX && !at.contains_key(&token) {
            let mut times: Vec<Timestamp> = at.values().copied().collect();
            let (_, middle, _) = times.select_nth_unstable(REMEMBERED_MAX / 2);
            *since = (*since).max(*middle);
            at.retain(|_, time| time > since);
        }
        at.insert(token, now);
    }

    /// When it was last used here; none if it was not.
    pub fn of(&self, token: TokenId) -> Option<Timestamp> {
        self.lock().at.get(&token).copied()
    }

    /// For how long it has not been used here, as far as is known.
    fn unused_for(&self, token: TokenId, made_at: Timestamp, now: Timestamp) -> Millis {
        let known = self.lock();
        now.since(known.at.get(&token).copied().unwrap_or(made_at.max(known.since)))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Whether a browser's session was not used for so long that it has ended. Other credentials never are.
    pub(crate) fn is_idle(&self, id: TokenId, token: &Token, now: Timestamp) -> bool {
        let limit = Millis::from(self.config.times.session_idle);
        token.kind == TokenKind::Session && self.last_used.unused_for(id, token.created_at, now) >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: TokenId = TokenId::from_bytes([1; 16]);

    #[test]
    fn what_was_never_seen_counts_from_its_making_or_the_start_whichever_is_later() {
        let used = LastUsed::new(Timestamp(100));
        assert_eq!(used.unused_for(TOKEN, Timestamp(50), Timestamp(160)), Millis(60));
        assert_eq!(used.unused_for(TOKEN, Timestamp(150), Timestamp(160)), Millis(10));
        used.touch(TOKEN, Timestamp(155));
        assert_eq!(used.unused_for(TOKEN, Timestamp(50), Timestamp(160)), Millis(5));
        assert_eq!(used.of(TOKEN), Some(Timestamp(155)));
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_what_was_used_last() {
        let used = LastUsed::new(Timestamp(0));
        let token = |n: u64| TokenId::derive(&n.to_be_bytes(), "token");
        let all = REMEMBERED_MAX as u64 + 1;
        (0..all).for_each(|n| used.touch(token(n), Timestamp(n)));
        assert_eq!((used.of(token(0)), used.of(token(all - 1))), (None, Some(Timestamp(all - 1))));
        assert!(used.lock().at.len() <= REMEMBERED_MAX);
        // It was used at 7, which is forgotten, and at most so long ago as what is remembered.
        let unused = used.unused_for(token(7), Timestamp(0), Timestamp(all));
        assert!(unused <= Millis(all / 2 + 1), "who was forgotten is not signed out: {unused:?}");
    }
}
