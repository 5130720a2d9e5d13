//! ChangeEmail, once the code was right.

use omnirun_commands_api::{Code, Outcome, Rejection};
use omnirun_events::account::{AddressClaimed, EmailChanged};
use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::subject::SubjectKind;
use omnirun_projections::Directory;

use super::{Decision, Wish, must_be_open};

/// Another account has the address. Only who reads its mail gets to hear it.
pub fn taken() -> Rejection {
    Rejection::new(Code::AddressTaken, "Another account has this address; delete that one first.")
}

/// The key for the address after the one that is sealed under `key`.
pub fn next_key(key: DataKeyLabel) -> DataKeyLabel {
    match key {
        DataKeyLabel::Address(version) => DataKeyLabel::Address(version.saturating_add(1)),
        DataKeyLabel::Account | DataKeyLabel::Day(_) | DataKeyLabel::Month(_) => DataKeyLabel::Address(1),
    }
}

/// Decides for who proved to read the new address, `email`, while the account's is `before`. The change and the claim are one commit.
pub fn change(
    directory: &Directory,
    wish: &Wish,
    before: &Sealed,
    email: &Sealed,
) -> Result<Decision, Rejection> {
    let account = must_be_open(directory, wish.account)?;
    if account.email != *before {
        return Err(Rejection::new(
            Code::IdempotencyConflict,
            "The address was changed a moment ago; look at the account before changing it again.",
        ));
    }
    let changed = wish.draft(SubjectKind::Account(wish.account), EmailChanged { email: email.clone() });
    // As at sign-up: the claim outlives the account and names nobody.
    let claimed = Draft {
        actor: Actor::System(Role::Commands),
        ..wish.draft(SubjectKind::Registry, AddressClaimed {})
    };
    Ok(Decision::Write(vec![changed, claimed], Outcome::EmailChanged))
}
