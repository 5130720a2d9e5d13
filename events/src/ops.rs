//! What operators did to an account at their terminal, on `sys.ops`. No address and no account is named: these records outlive the account.

use serde::{Deserialize, Serialize};

use crate::id::ReceiptId;

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
