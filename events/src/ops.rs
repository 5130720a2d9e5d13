//! What operators did to an account at their terminal, on `sys.ops`. No address and no account is named: these records outlive the account.

use serde::{Deserialize, Serialize};

use crate::billing::Correction;
use crate::id::ReceiptId;
use crate::keys::Digest;
use crate::unit::MicroCents;

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Wrote everything that is held about an account to an archive, for its owner.
    ExportAccount,
    /// Had an account erased.
    EraseAccount {
        /// Names the erasure, as in the tombstones.
        receipt: ReceiptId,
    },
    /// Had what retention had planned carried out.
    ApplyRetention {
        /// The plan's hash.
        plan: Digest,
    },
    /// Had an account put on another plan.
    ChangePlan {
        /// Its name.
        plan: String,
    },
    /// Had a closed month corrected.
    CorrectStatement {
        /// More or less.
        correction: Correction,
        /// By how much.
        amount: MicroCents,
    },
}

/// An operator acted on somebody's request. When is the record's time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpsActed {
    /// What the operator is called, as they said.
    pub operator: String,
    /// What they did.
    pub action: Action,
    /// Why, in their words, such as the number of a request that came by mail. Never who asked.
    pub reason: String,
}
