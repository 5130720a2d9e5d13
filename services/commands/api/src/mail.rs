//! What can be asked of the mailer. Sending is a request, not an event: the text holds a code, so it is stored nowhere.

use async_trait::async_trait;
use omnirun_events::unit::{Millis, StandardMillis};
use serde::{Deserialize, Serialize};

use crate::command::Personal;
pub use crate::command::personal::OneTimeCode;

/// NATS subject that mailers answer on.
pub const MAIL_SUBJECT: &str = "mail.send";

/// One mail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mail {
    /// The stored address, never the one that was typed.
    pub to: Personal,
    /// What it says.
    pub content: Content,
}

/// What a mail says. The mailer owns the words.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A code to sign in with.
    SignInCode {
        /// The code.
        code: OneTimeCode,
        /// How long it works.
        valid_for: Millis,
    },
    /// That an account was erased.
    ErasureReceipt {
        /// The signed document, in lines that need no wrapping.
        document: String,
    },
    /// A code that makes the address it is sent to the account's.
    ChangeEmailCode {
        /// The code.
        code: OneTimeCode,
        /// How long it works.
        valid_for: Millis,
    },
    /// To the address before: it is the account's no more.
    EmailChanged,
    /// How much of what a month includes is used.
    UsageNotice {
        /// The percentage that was reached: 50, 80 or 100.
        percent: u8,
        /// What was used.
        used: StandardMillis,
        /// What the month includes.
        included: StandardMillis,
        /// The day (UTC) on which the next month begins, such as 2026-01-31.
        resets_on: String,
    },
}

impl Content {
    /// The code in it, if it has one.
    pub const fn code(&self) -> Option<&OneTimeCode> {
        match self {
            Self::SignInCode { code, .. } | Self::ChangeEmailCode { code, .. } => Some(code),
            Self::EmailChanged | Self::UsageNotice { .. } | Self::ErasureReceipt { .. } => None,
        }
    }
}

/// Why a mail was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MailError {
    /// The mail server did not take it now; the same mail may go later.
    #[error("the mail server did not take the mail")]
    Temporary,
    /// The mail server refuses it for good, or the address is none.
    #[error("the mail server refuses the mail")]
    Permanent,
    /// No mailer answers.
    #[error("no mailer answers")]
    NoResponders,
}

/// Sends mail.
#[async_trait]
pub trait SendMail: Send + Sync {
    /// Hands one mail to the mail server; Ok when the server has taken it.
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError>;
}
