//! CreateToken, RevokeToken and SignOutEverywhere.

use omnirun_commands_api::command::{NewCredential, TokenWish};
use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::id::TokenId;
use omnirun_events::log::BATCH_ENTRIES_MAX;
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::SubjectKind;
use omnirun_events::token::{RevokeReason, Scope, TokenCreated, TokenKind, TokenRevoked};
use omnirun_events::unit::Millis;
use omnirun_projections::Directory;

use super::repeat::{Recorded, must_be_same};
use super::{Decision, Wish, must_be_open, not_found};

/// Characters of a token's name, at most.
const NAME_MAX: usize = 100;

/// API tokens of one account that work at one time, at most: as many as a person can still tell apart, so that a list shows all of them. What
/// signing in makes is not counted, for it must not keep anybody out.
pub const LIVE_TOKENS_MAX: usize = 100;

/// Days that a token may be valid, at most: ten years.
const DAYS_MAX: u32 = 3650;

const DAY: u64 = 24 * 3600 * 1000;

/// The token that a wish makes.
pub fn token_of(wish: &Wish) -> TokenId {
    TokenId::derive(wish.id.as_bytes(), "token")
}

/// Refuses a wish that no token can follow.
pub fn check(wanted: &TokenWish) -> Result<(), Rejection> {
    let invalid = |message: String| Err(Rejection::new(Code::Invalid, message));
    let name = wanted.name.reveal();
    if !(1..=NAME_MAX).contains(&name.chars().count())
        || name.trim().is_empty()
        || name.chars().any(char::is_control)
    {
        return invalid(format!("A token's name has 1 to {NAME_MAX} printable characters."));
    }
    if wanted.scopes.is_empty() {
        return invalid("A token has at least one scope.".to_owned());
    }
    if wanted.expires_in_days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
        return invalid(format!("A token expires in 1 to {DAYS_MAX} days, or never."));
    }
    Ok(())
}

/// Decides about a new token. `name` is the wanted name, sealed; `recorded` is what an earlier try sealed.
pub fn create(
    directory: &Directory,
    wish: &Wish,
    wanted: &TokenWish,
    credential: &NewCredential,
    name: &Sealed,
    recorded: &Recorded,
) -> Result<Decision, Rejection> {
    must_be_open(directory, wish.account)?;
    let token = token_of(wish);
    let scopes = scopes(&wanted.scopes);
    let lifetime = wanted.expires_in_days.map(|days| Millis(u64::from(days) * DAY));
    if let Some(earlier) = directory.tokens.get(token) {
        let earlier_lifetime = earlier.expires_at.map(|expires| expires.since(earlier.created_at));
        must_be_same(
            earlier.account == wish.account
                && earlier.kind == TokenKind::Api
                && earlier.scopes == scopes
                && earlier_lifetime == lifetime,
        )?;
        recorded.must_equal(Some(&wanted.name))?;
        return Ok(Decision::Already(Outcome::TokenAlreadyCreated { token }));
    }
    let all = directory.tokens.of(wish.account);
    if all.filter(|(_, one)| one.kind == TokenKind::Api && one.is_valid(wish.now)).count() >= LIVE_TOKENS_MAX
    {
        let message = format!(
            "An account has at most {LIVE_TOKENS_MAX} tokens that work; delete one that is not used."
        );
        return Err(Rejection::new(Code::Invalid, message));
    }
    let expires_at = lifetime.map(|lifetime| wish.now.after(lifetime));
    let created = TokenCreated {
        token,
        kind: TokenKind::Api,
        verifier: credential.verifier,
        name: Some(name.clone()),
        scopes,
        hint: credential.hint.clone(),
        expires_at,
    };
    let draft = wish.draft(SubjectKind::Token(wish.account, token), created);
    Ok(Decision::Write(vec![draft], Outcome::TokenCreated { token, created_at: wish.now, expires_at }))
}

/// Each scope once, in a fixed order, so that equal wishes are equal.
fn scopes(wanted: &[Scope]) -> Vec<Scope> {
    let mut scopes = wanted.to_vec();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// Decides about revoking: once is enough, twice changes nothing.
pub fn revoke(
    directory: &Directory,
    wish: &Wish,
    token: TokenId,
    reason: RevokeReason,
) -> Result<Decision, Rejection> {
    let known = directory.tokens.get(token).filter(|known| known.account == wish.account);
    if known.ok_or_else(not_found)?.revoked.is_some() {
        return Ok(Decision::Already(Outcome::TokenRevoked));
    }
    let draft = wish.draft(SubjectKind::Token(wish.account, token), TokenRevoked { reason });
    Ok(Decision::Write(vec![draft], Outcome::TokenRevoked))
}

/// Sign-ins that one decision ends, at most: what one batch of the log holds.
pub const ENDED_AT_ONCE: usize = BATCH_ENTRIES_MAX;

/// Decides about ending what signing in made, as far as it still works: at most [`ENDED_AT_ONCE`] of them, oldest first.
pub fn sign_out_everywhere(directory: &Directory, wish: &Wish) -> Result<Decision, Rejection> {
    directory.accounts.get(wish.account).ok_or_else(not_found)?;
    let all = directory.tokens.of(wish.account);
    let signed_in = all.filter(|(_, token)| token.kind != TokenKind::Api && token.is_valid(wish.now));
    let end = |token| {
        let revoked = TokenRevoked { reason: RevokeReason::ByOwner };
        wish.draft(SubjectKind::Token(wish.account, token), revoked)
    };
    let drafts: Vec<_> = signed_in.take(ENDED_AT_ONCE).map(|(token, _)| end(token)).collect();
    let ended = u32::try_from(drafts.len()).unwrap_or(u32::MAX);
    let outcome = Outcome::SignedOut { ended };
    Ok(if drafts.is_empty() { Decision::Already(outcome) } else { Decision::Write(drafts, outcome) })
}
