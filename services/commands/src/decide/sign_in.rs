//! VerifyCode, once the code was right: open the account if there is none, and make the credential valid.

use omnirun_commands_api::command::NewCredential;
use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::account::{AccountOpened, AddressClaimed};
use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::SubjectKind;
use omnirun_events::token::{Scope, TokenCreated, TokenKind};
use omnirun_events::unit::Millis;
use omnirun_projections::Directory;

use super::tokens::token_of;
use super::{Decision, Wish, closing};

const DAY: u64 = 24 * 3600 * 1000;

/// How long a signed-in browser stays so.
pub const SESSION_LIFETIME: Millis = Millis(7 * DAY);

/// How long a signed-in command line stays so.
pub const CLI_LIFETIME: Millis = Millis(90 * DAY);

/// One answer for a code that is wrong, used, expired, over-tried or for another page.
pub fn refused() -> Rejection {
    Rejection::new(
        Code::InvalidOrExpiredCode,
        "The code is wrong or does not work any more; ask for a new one.",
    )
}

/// How long a credential of this kind lives; API tokens are not made by signing in.
pub fn lifetime(kind: TokenKind) -> Result<Millis, Rejection> {
    match kind {
        TokenKind::Session => Ok(SESSION_LIFETIME),
        TokenKind::Cli => Ok(CLI_LIFETIME),
        TokenKind::Api => {
            Err(Rejection::new(Code::Invalid, "Signing in makes sessions and command-line tokens only."))
        }
    }
}

/// What opening an account needs.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The address, sealed for the account's subject.
    pub email: Sealed,
    /// The plan that it starts on.
    pub plan: String,
}

/// Decides for the owner of the address. With `opening` the account is new: it, the claim of its address and the credential are one
/// commit, and each expects that nobody was first.
pub fn decide(
    directory: &Directory,
    wish: &Wish,
    kind: TokenKind,
    credential: &NewCredential,
    opening: Option<Opening>,
) -> Result<Decision, Rejection> {
    let expires_at = wish.now.after(lifetime(kind)?);
    let token = token_of(wish);
    let account = wish.account;
    let is_known = directory.accounts.get(account).is_some();
    if directory.accounts.is_closing(account) {
        return Err(closing());
    }
    let mut drafts = match (is_known, opening) {
        (true, None) => Vec::new(),
        (false, Some(opening)) => open(wish, opening),
        // The account was closed, or opened by somebody else, since the code was sent.
        _ => return Err(refused()),
    };
    let created = TokenCreated {
        token,
        kind,
        verifier: credential.verifier,
        name: None,
        scopes: Scope::ALL.to_vec(),
        hint: credential.hint.clone(),
        expires_at: Some(expires_at),
    };
    drafts.push(wish.draft(SubjectKind::Token(account, token), created));
    Ok(Decision::Write(drafts, Outcome::SignedIn { account, token, expires_at }))
}

fn open(wish: &Wish, opening: Opening) -> Vec<Draft> {
    let opened = AccountOpened { email: opening.email, plan: opening.plan };
    // The claim outlives the account: it names nobody.
    let claimed = Draft {
        actor: Actor::System(Role::Commands),
        ..wish.draft(SubjectKind::Registry, AddressClaimed {})
    };
    vec![wish.draft(SubjectKind::Account(wish.account), opened), claimed]
}
