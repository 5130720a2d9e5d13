//! Events of an account, on `evt.<account>.account.self`, and the claim of its address on `sys.registry`.

use serde::{Deserialize, Serialize};

use crate::sealing::Sealed;

/// Name of the sealed field that holds the address; part of its associated data.
pub const EMAIL_FIELD: &str = "email";

/// An account exists from here on. Always the first event of its subject, appended together with
/// [`AddressClaimed`] so that two sign-ups with one address cannot both win.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountOpened {
    /// The address that proved itself with a code, sealed under the first of the account's address keys.
    pub email: Sealed,
    /// Name of the plan in `infra/plans.toml` that the account starts on.
    pub plan: String,
}

/// The account has another address from here on. Appended together with [`AddressClaimed`]; the key of the address before it is destroyed
/// next, which makes that one unreadable wherever it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailChanged {
    /// The address that proved itself with a code, sealed under the next of the account's address keys.
    pub email: Sealed,
}

/// Some address was claimed. It says nothing of which: its only work is its position on `sys.registry`, which the writer
/// expected, after its index of addresses had reached it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressClaimed {}
