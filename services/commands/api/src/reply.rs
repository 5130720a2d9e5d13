//! Answers: what was decided and where it is in the log, or why not.

use omnirun_events::id::{AccountId, ChallengeId, KeyId, ReceiptId, SandboxId, TokenId};
use omnirun_events::log::Position;
use omnirun_events::unit::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::command::{Personal, RetentionPlan};

/// The answer to a command that was followed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// The last position that the command wrote or relied on in EVENTS; who answers a user waits until its own view has reached it.
    pub position: Option<Position>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A challenge stands, whether or not a mail was sent.
    CodeRequested {
        /// Its id.
        challenge: ChallengeId,
        /// How long its code works.
        expires_in: Millis,
        /// When another may be asked for.
        resend_after: Millis,
    },
    /// The code was right and the credential is valid.
    SignedIn {
        /// Whose it is.
        account: AccountId,
        /// The credential.
        token: TokenId,
        /// When it expires.
        expires_at: Timestamp,
    },
    /// The account has the address.
    EmailChanged,
    /// The token is valid.
    TokenCreated {
        /// The token.
        token: TokenId,
        /// When it was made.
        created_at: Timestamp,
        /// When it expires; none = never.
        expires_at: Option<Timestamp>,
    },
    /// The command with this id made the token before; its secret was shown then.
    TokenAlreadyCreated {
        /// The token.
        token: TokenId,
    },
    /// The credential is refused from now on.
    TokenRevoked,
    /// Sessions and command-line sign-ins are refused from now on.
    SignedOut {
        /// How many this command ended.
        ended: u32,
    },
    /// The sandbox was admitted, now or by an earlier try.
    SandboxRequested {
        /// The sandbox.
        sandbox: SandboxId,
        /// It fails if no host has claimed it by then.
        deadline: Timestamp,
    },
    /// The sandbox will end, or has ended.
    SandboxStopping,
    /// The sandbox will be paused, or was.
    SandboxPausing,
    /// The sandbox is admitted anew, now or by an earlier try.
    SandboxResumed,
    /// The sandbox's end was moved.
    TimeoutExtended {
        /// Its new end.
        end_at: Timestamp,
    },
    /// The account is being erased, by this command or an earlier one.
    AccountClosing {
        /// Names the erasure.
        receipt: ReceiptId,
        /// Since when.
        since: Timestamp,
    },
    /// The host is given up, now or by an earlier try.
    HostLost {
        /// Its sandboxes that this command ended.
        ended: u32,
    },
    /// The master key has a new epoch, and the old one is overwritten.
    MasterKeyRotated {
        /// The epoch.
        epoch: u32,
        /// Data keys that were wrapped anew.
        keys: u64,
    },
    /// What retention would remove now.
    RetentionPlanned(RetentionPlan),
    /// What a plan said is gone.
    RetentionApplied {
        /// Records.
        records: u64,
        /// Sandboxes.
        sandboxes: u64,
        /// Keys of free text.
        keys: u64,
    },
    /// The account is on the plan from then on, by this command or an earlier one.
    PlanChanged {
        /// The beginning of its next month.
        from: Timestamp,
    },
    /// What an operator did is on the log.
    OperatorRecorded {
        /// Whose account it is about, if it is about one.
        account: Option<AccountId>,
    },
    /// The month is closed, now or by an earlier try.
    StatementClosed,
    /// The correction stands.
    StatementCorrected,
    /// The account is told; its mail is on the way.
    UsageNoticed,
    /// The account was told before, or its month is another by now.
    UsageAlreadyNoticed,
    /// The export is vouched for.
    ExportSigned {
        /// The commands service's key.
        key: KeyId,
        /// Ed25519, 64 bytes.
        #[serde(with = "serde_bytes")]
        signature: Vec<u8>,
    },
    /// The opened fields in the order asked; none where the key is destroyed or the field was sealed elsewhere.
    FieldsOpened(
        /// The plain texts.
        Vec<Option<Personal>>,
    ),
}

/// Why a command was not followed. The text is for users and names no input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// What kind of no.
    pub code: Code,
    /// One sentence: which limit, its value, the use, when it resets, what to do.
    pub message: String,
    /// Whether the same command may be followed later.
    pub retryable: bool,
    /// How long to wait first, where that is known.
    pub retry_after: Option<Millis>,
}

impl Rejection {
    /// A no that stays one.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false, retry_after: None }
    }

    /// A no that may pass.
    pub fn retryable(code: Code, message: impl Into<String>, after: Millis) -> Self {
        Self { code, message: message.into(), retryable: true, retry_after: Some(after) }
    }
}

/// Kinds of no. As text (snake case) they are the `code` of HTTP errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 401: the code is wrong, used, expired, over-tried or for another page. One answer for all of them.
    InvalidOrExpiredCode,
    /// 422: a value is out of its range.
    Invalid,
    /// 422: no host offers this template.
    UnknownTemplate,
    /// 404: it does not exist, or not for this account.
    NotFound,
    /// 409: another account has the address. Said only to whoever reads its mail.
    AddressTaken,
    /// 409: the thing has ended.
    AlreadyFinal,
    /// 409: the sandbox does not run yet.
    NotRunning,
    /// 409: the account is being erased.
    AccountClosing,
    /// 409: the idempotency key came before with another wish.
    IdempotencyConflict,
    /// 402: a limit of the plan that money lifts.
    PlanLimit,
    /// 429: too many in too short a time.
    RateLimited,
    /// 503: nothing was done; try again.
    Busy,
    /// 504: the deadline passed before it could be handled; nothing was done.
    DeadlinePassed,
}
