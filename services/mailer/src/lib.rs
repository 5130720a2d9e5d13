//! Sending mail: the words ([`text`]), the mail server ([`smtp`]), and a mailbox in memory for a machine without one ([`mailbox`]).
//!
//! Addresses and codes pass through and stay nowhere: nothing here logs them, and errors carry no text of the mail server, which may quote
//! them. When and how often to try is the commands service's; on the bus this is the service `mail.send` ([`serve`]).

pub mod text;

pub mod mailbox;
pub mod smtp;

pub mod serve;

pub use mailbox::{MemoryMailbox, SentMail};
pub use serve::{serve_nats, serve_nats_until};
pub use smtp::{Credentials, Encryption, SettingsError, SmtpMailer, SmtpSettings};
