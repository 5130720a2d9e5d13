//! Commands: imperative, each answered once, each safe to send again with the same id.

use std::fmt;
use std::net::IpAddr;

use omnirun_events::Actor;
use omnirun_events::auth::CodeProof;
use omnirun_events::billing::{StatementClosed, StatementCorrected, UsageNoticed};
use omnirun_events::id::{AccountId, ChallengeId, CommandId, HostId, SandboxId, TokenId};
use omnirun_events::keys::Digest;
use omnirun_events::ops::OpsActed;
use omnirun_events::sandbox::Network;
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::{Log, Subject};
use omnirun_events::token::{RevokeReason, Scope, TokenKind, TokenVerifier};
use omnirun_events::unit::{Mebibytes, Seconds, Timestamp, Vcpus};
use serde::{Deserialize, Serialize};

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

/// Text that identifies a person. Its Debug prints nothing of it, and who looks into it says so with [`Personal::reveal`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Personal(String);

impl Personal {
    /// From now on it is not seen by accident.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The text itself, for who shows it to the person.
    pub fn into_revealed(self) -> String {
        self.0
    }
}

impl fmt::Debug for Personal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Personal([redacted])")
    }
}

/// The network that a request came from, coarse enough to be no person's: it is counted and never stored. Its Debug prints nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientNetwork {
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 56 bits of an IPv6 address: what one household or office is given (RFC 6177 section 2).
    V6([u8; 7]),
    /// Outside, and more cannot be told: all of these count as one.
    Unknown,
}

impl ClientNetwork {
    /// The network of an address; an IPv4 address written as an IPv6 one is the former.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g])
            }
        }
    }
}

impl fmt::Debug for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientNetwork([redacted])")
    }
}

/// The stored half of a credential that the gateway has just made; the other half is on its way to the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCredential {
    /// What presented credentials are compared with.
    pub verifier: TokenVerifier,
    /// The checksum characters.
    pub hint: String,
}

/// What a user wants of a new API token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenWish {
    /// What the user calls it.
    pub name: Personal,
    /// What it may do; at least one, and nothing that the asking credential may not.
    pub scopes: Vec<Scope>,
    /// Days until it expires; none = never.
    pub expires_in_days: Option<u32>,
}

/// What a user wants of a new sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxWish {
    /// Template, by name.
    pub template: String,
    /// Virtual processors; none = the template's.
    pub vcpus: Option<Vcpus>,
    /// Memory; none = the template's.
    pub memory: Option<Mebibytes>,
    /// Life in seconds from its start; 0 = the plan's longest.
    pub timeout: Seconds,
    /// Whether it has a way out.
    pub network: Network,
    /// The user's metadata as JSON, sealed on arrival.
    pub metadata: Option<Personal>,
}

/// A sealed field and the place it was sealed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedField {
    /// The subject of its record.
    pub subject: Subject,
    /// Its name.
    pub field: String,
    /// The sealed value.
    pub sealed: Sealed,
}

/// Sealed fields that one command opens, at most.
pub const FIELDS_MAX: usize = 1000;

/// An account as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// By its id.
    Account(AccountId),
    /// By its address.
    Address(Personal),
}

/// What retention would remove now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPlan {
    /// Names exactly this plan: SHA-256 of the tombstones that would be written and the keys that would be destroyed.
    pub hash: Digest,
    /// Records by log.
    pub records: Vec<(Log, u64)>,
    /// Sandboxes of which nothing would be left.
    pub sandboxes: u64,
    /// Keys of free text.
    pub keys: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_prefix_and_prints_as_nothing() {
        let of = |text: &str| ClientNetwork::of(text.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), of("192.0.2.200"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("::ffff:192.0.2.9"), ClientNetwork::V4([192, 0, 2]));
        assert_eq!(of("2001:db8:1:200::1"), of("2001:db8:1:2ff::2"));
        assert_ne!(of("2001:db8:1:200::1"), of("2001:db8:1:300::1"));
        assert_eq!(format!("{:?}", of("192.0.2.1")), "ClientNetwork([redacted])");
    }
}
