//! Commands: imperative, each answered once, each safe to send again with the same id.

mod client_network;
pub(crate) mod personal;
mod wish;

use omnirun_events::Actor;
use omnirun_events::auth::CodeProof;
use omnirun_events::billing::{StatementClosed, StatementCorrected, UsageNoticed};
use omnirun_events::id::{AccountId, ChallengeId, CommandId, HostId, SandboxId, TokenId};
use omnirun_events::keys::Digest;
use omnirun_events::ops::OpsActed;
use omnirun_events::token::{RevokeReason, TokenKind};
use omnirun_events::unit::{Seconds, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::client_network::ClientNetwork;
pub use self::personal::Personal;
pub use self::wish::{FIELDS_MAX, NewCredential, RetentionPlan, SandboxWish, SealedField, TokenWish, Whose};

/// A command and what every command has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// Names the wish: HMAC(gateway secret, account ‖ idempotency key), or random without one. Ids of what the command makes, and
    /// its commit id, follow from it, so that a retry lands on the records of the first try.
    pub id: CommandId,
    /// Who wants it.
    pub actor: Actor,
    /// When it was sent, by the sender's clock.
    pub at: Timestamp,
    /// After this moment nobody waits for the answer and nothing is to be done.
    pub deadline: Timestamp,
    /// What is wanted.
    pub command: Command,
}

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Send a one-time code to this address. The answer is the same for every address.
    RequestCode {
        /// The address as it was typed.
        email: Personal,
        /// SHA-256 of a secret that the asking page keeps, to bind the code to that page.
        bind: Option<[u8; 32]>,
        /// Where it was asked from; none = on this machine.
        network: Option<ClientNetwork>,
    },
    /// Sign in: spend a try, compare, use the code up, open the account if there is none, and make the credential valid.
    VerifyCode {
        /// The address as it was typed.
        email: Personal,
        /// The challenge; none = the newest unbound one of the address.
        challenge: Option<ChallengeId>,
        /// Proof of the code for the challenge; without one, for [`NO_CHALLENGE`].
        proof: CodeProof,
        /// The secret of a bound challenge.
        page_secret: Option<Personal>,
        /// Where it was tried from; none = on this machine, or it cannot be told.
        network: Option<ClientNetwork>,
        /// Session or command line.
        kind: TokenKind,
        /// The credential to make valid.
        credential: NewCredential,
    },
    /// Send a one-time code to an address that an account is to have from now on.
    RequestEmailChange {
        /// Whose.
        account: AccountId,
        /// The address as it was typed.
        email: Personal,
        /// Where it was asked from; none = on this machine.
        network: Option<ClientNetwork>,
    },
    /// Give an account another address: spend a try, compare, use the code up, and destroy the key of the address before.
    ChangeEmail {
        /// Whose.
        account: AccountId,
        /// The address as it was typed.
        email: Personal,
        /// The challenge.
        challenge: ChallengeId,
        /// Proof of the code for it.
        proof: CodeProof,
    },
    /// Make an API token valid.
    CreateToken {
        /// Whose.
        account: AccountId,
        /// What the user wants.
        wish: TokenWish,
        /// Its stored half.
        credential: NewCredential,
    },
    /// Refuse a credential from now on.
    RevokeToken {
        /// Whose.
        account: AccountId,
        /// Which.
        token: TokenId,
        /// Why.
        reason: RevokeReason,
    },
    /// Refuse every session and command-line sign-in from now on; API tokens go on working.
    SignOutEverywhere {
        /// Whose.
        account: AccountId,
    },
    /// Admit a sandbox.
    RequestSandbox {
        /// Whose.
        account: AccountId,
        /// What the user wants.
        wish: SandboxWish,
    },
    /// End a sandbox, or cancel it before a host has claimed it.
    StopSandbox {
        /// Whose.
        account: AccountId,
        /// Which.
        sandbox: SandboxId,
    },
    /// Have a running sandbox stand still: its memory stays, and so does its end.
    PauseSandbox {
        /// Whose.
        account: AccountId,
        /// Which.
        sandbox: SandboxId,
    },
    /// Let a paused sandbox go on; what it may use is reserved anew.
    ResumeSandbox {
        /// Whose.
        account: AccountId,
        /// Which.
        sandbox: SandboxId,
    },
    /// Move a sandbox's end to `timeout` from now; 0 = the plan's longest.
    ExtendTimeout {
        /// Whose.
        account: AccountId,
        /// Which.
        sandbox: SandboxId,
        /// From now.
        timeout: Seconds,
    },
    /// Erase an account and everything of it.
    CloseAccount {
        /// Whose.
        account: AccountId,
        /// The account's address as its owner typed it, to show that it is meant.
        confirm: Personal,
    },
    /// Erase an account because its owner asked by mail. Only operators may ask for it.
    EraseAccount {
        /// Which.
        whose: Whose,
        /// Who does it.
        operator: String,
        /// Why, without naming who asked.
        reason: String,
    },
    /// Give up a host that will not come back, and all that was on it. Only operators may ask for it.
    LoseHost {
        /// Which.
        host: HostId,
        /// Who does it.
        operator: String,
        /// Why.
        reason: String,
    },
    /// Rotate the master key, or end a rotation that was broken off. Only operators may ask for it.
    RotateMasterKey,
    /// Say what retention would remove now. Changes nothing. Only operators may ask for it.
    PlanRetention,
    /// Have that carried out which a plan said, if it is still what goes. Only operators may ask for it.
    ApplyRetention {
        /// The plan's hash.
        plan: Digest,
    },
    /// Put an account on another plan from its next month on. Only operators may ask for it.
    ChangePlan {
        /// Whose.
        account: AccountId,
        /// The name of the plan.
        plan: String,
    },
    /// Write down what an operator does, and learn which account it is about. Only operators may ask for it.
    RecordOperator {
        /// Whose request, if it is about an account; not written down.
        whose: Option<Whose>,
        /// Who, what and why.
        acted: OpsActed,
    },
    /// Close a month for good. For the projector; an account's owner may not.
    CloseStatement {
        /// Whose.
        account: AccountId,
        /// The month, rated.
        statement: Box<StatementClosed>,
    },
    /// Say that a closed month costs more or less. For operators; an account's owner may not.
    CorrectStatement {
        /// Whose.
        account: AccountId,
        /// Which month, and by how much.
        corrected: StatementCorrected,
    },
    /// Tell the account by mail how much of its month is used, once for each percentage. For the projector.
    SendUsageNotice {
        /// Whose.
        account: AccountId,
        /// What was reached.
        noticed: UsageNoticed,
    },
    /// Vouch for the export of an account. Changes nothing; the signature is over [`EXPORT_TYPE`], the account's id and the digest.
    SignExport {
        /// Whose.
        account: AccountId,
        /// SHA-256 of the manifest.
        manifest: Digest,
    },
    /// Open sealed fields of one account. Changes nothing; only the commands service holds the keys.
    OpenFields {
        /// Whose.
        account: AccountId,
        /// Which, at most [`FIELDS_MAX`].
        fields: Vec<SealedField>,
    },
}

impl Command {
    /// The command's subject on the bus and its name in metrics: `cmd.<family>.<verb>`.
    pub const fn subject(&self) -> &'static str {
        match self {
            Self::RequestCode { .. } => "cmd.account.request_code",
            Self::VerifyCode { .. } => "cmd.account.verify_code",
            Self::RequestEmailChange { .. } => "cmd.account.request_email_change",
            Self::ChangeEmail { .. } => "cmd.account.change_email",
            Self::CreateToken { .. } => "cmd.token.create",
            Self::RevokeToken { .. } => "cmd.token.revoke",
            Self::SignOutEverywhere { .. } => "cmd.token.sign_out_everywhere",
            Self::RequestSandbox { .. } => "cmd.sandbox.request",
            Self::StopSandbox { .. } => "cmd.sandbox.stop",
            Self::PauseSandbox { .. } => "cmd.sandbox.pause",
            Self::ResumeSandbox { .. } => "cmd.sandbox.resume",
            Self::ExtendTimeout { .. } => "cmd.sandbox.extend_timeout",
            Self::CloseAccount { .. } => "cmd.account.close",
            Self::EraseAccount { .. } => "cmd.ops.erase_account",
            Self::LoseHost { .. } => "cmd.ops.lose_host",
            Self::RotateMasterKey => "cmd.ops.rotate_master_key",
            Self::PlanRetention => "cmd.ops.plan_retention",
            Self::ApplyRetention { .. } => "cmd.ops.apply_retention",
            Self::ChangePlan { .. } => "cmd.ops.change_plan",
            Self::RecordOperator { .. } => "cmd.ops.record_operator",
            Self::CloseStatement { .. } => "cmd.billing.close_statement",
            Self::CorrectStatement { .. } => "cmd.billing.correct_statement",
            Self::SendUsageNotice { .. } => "cmd.billing.send_usage_notice",
            Self::SignExport { .. } => "cmd.account.sign_export",
            Self::OpenFields { .. } => "cmd.account.open_fields",
        }
    }

    /// Every subject that a commands service answers on.
    pub const SUBJECTS: [&'static str; 25] = [
        "cmd.account.request_code",
        "cmd.account.verify_code",
        "cmd.account.request_email_change",
        "cmd.account.change_email",
        "cmd.token.create",
        "cmd.token.revoke",
        "cmd.token.sign_out_everywhere",
        "cmd.sandbox.request",
        "cmd.sandbox.stop",
        "cmd.sandbox.pause",
        "cmd.sandbox.resume",
        "cmd.sandbox.extend_timeout",
        "cmd.billing.close_statement",
        "cmd.billing.correct_statement",
        "cmd.billing.send_usage_notice",
        "cmd.account.sign_export",
        "cmd.account.open_fields",
        "cmd.account.close",
        "cmd.ops.erase_account",
        "cmd.ops.lose_host",
        "cmd.ops.rotate_master_key",
        "cmd.ops.plan_retention",
        "cmd.ops.apply_retention",
        "cmd.ops.change_plan",
        "cmd.ops.record_operator",
    ];
}

/// DSSE type of the signature of an export's manifest.
pub const EXPORT_TYPE: &str = "application/vnd.omnirun.export.v1";

/// DSSE type of the signature of an erasure's receipt.
pub const RECEIPT_TYPE: &str = "application/vnd.omnirun.receipt.v1";

/// What a code's proof names when the user did not say which challenge the code answers.
pub const NO_CHALLENGE: ChallengeId = ChallengeId::from_bytes([0; 16]);
