//! Events of an account, on `evt.<account>.account.self`, and the claim of its address on `sys.registry`.

use serde::{Deserialize, Serialize};

use crate::id::ReceiptId;
use crate::sealing::Sealed;
use crate::unit::Timestamp;

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

/// The account is on another plan from the beginning of its next month, which no day of a month under way is rated by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChanged {
    /// Name of the plan in `infra/plans.toml`.
    pub plan: String,
    /// The first moment of the month from which on it holds. A later change of the same month replaces this one.
    pub from: Timestamp,
}

/// Some address was claimed. It says nothing of which: its only work is its position on `sys.registry`, which the writer
/// expected, after its index of addresses had reached it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressClaimed {}

/// The account is being erased and nothing is admitted for it any more; all its credentials are dead from here on. On the account's
/// subject and, in the same batch, on its admission subject, so that no request that was decided before can still be appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountClosing {
    /// Names this erasure, in what the person is told and in the tombstones. Random: it says nothing of the account.
    pub receipt: ReceiptId,
}

/// Every sandbox of a closing account is final. A host that has said everything up to this record's position has nothing more to say
/// about the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountQuiet {}

/// What became of the mail with the receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptMail {
    /// The mail server took it.
    Sent,
    /// It could not be sent for as long as is reasonable; the erasure does not wait for it.
    GivenUp,
}

/// The receipt is on its way, so that the key that opens the address is not needed any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptIssued {
    /// What became of the mail.
    pub mail: ReceiptMail,
}

/// The account's keys are destroyed: nothing that was sealed under them can be read again. The last event of the account's subject; folds
/// drop everything of the account here. Its records follow under a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountClosed {
    /// The same as in [`AccountClosing`].
    pub receipt: ReceiptId,
}
