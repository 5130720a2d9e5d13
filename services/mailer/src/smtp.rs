//! Handing mails to a mail server by SMTP (RFC 5321), encrypted unless the server is this very machine.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use omnirun_commands_api::mail::{Mail, MailError, SendMail};
use zeroize::Zeroizing;

use crate::text::Text;

/// How long a delivery may take where nothing else is set.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Demanded by STARTTLS (RFC 3207), usually port 587.
    StartTls,
    /// From the first byte (RFC 8314), usually port 465.
    Implicit,
    /// Not at all: to a loopback address only.
    None,
}

/// A user name and a password for the mail server. Its Debug prints nothing of the password.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials([redacted])")
    }
}

/// Where mails go.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// Name of the mail server, which its certificate must be for.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub encryption: Encryption,
    /// Who we are to the server, if it asks.
    pub credentials: Option<Credentials>,
    /// Sender, as `address` or `Name <address>`.
    pub from: String,
    /// A certificate (PEM) to trust besides the public authorities, for a server with one of its own.
    pub authority: Option<Vec<u8>>,
    /// How long a delivery may take in all; [`PATIENCE`] where nothing speaks against it.
    pub patience: Duration,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The sender is no address.
    #[error("the sender of mails is not an address")]
    From(#[source] lettre::address::AddressError),
    /// Plain text over a network.
    #[error("mail to {host} has to be encrypted; only a mail server on a loopback address may go without")]
    Plain {
        /// The server.
        host: String,
    },
    /// The certificate, or the name of the server, cannot be used for TLS.
    #[error("the mail server's TLS settings cannot be used")]
    Tls(#[source] smtp::Error),
}

/// Hands mails to one mail server, each over a connection of its own.
pub struct SmtpMailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    patience: Duration,
}

impl fmt::Debug for SmtpMailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SmtpMailer")
    }
}

impl SmtpMailer {
    /// A mailer with these settings. Connects to nobody yet.
    pub fn new(settings: SmtpSettings) -> Result<Self, SettingsError> {
        for outcome in [Ok(()), Err(MailError::Temporary), Err(MailError::Permanent)] {
            count(&outcome, 0);
        }
        let from: Mailbox = settings.from.parse().map_err(SettingsError::From)?;
        let domain = from.email.domain().to_owned();
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(settings.host.as_str())
            .port(settings.port)
            .timeout(Some(settings.patience))
            .hello_name(ClientId::Domain(domain))
            .tls(tls(&settings)?);
        if let Some(Credentials { user, password }) = settings.credentials {
            let password = String::clone(&password);
            builder = builder.credentials(smtp::authentication::Credentials::new(user, password));
        }
        Ok(Self { transport: builder.build(), from, patience: settings.patience })
    }

    fn message(&self, mail: &Mail) -> Result<Message, MailError> {
        let to: Address = mail.to.reveal().parse().map_err(|_| MailError::Permanent)?;
        let Text { subject, body } = Text::of(&mail.content);
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| MailError::Temporary)?;
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()]);
        Message::builder()
            .envelope(envelope.map_err(|_| MailError::Permanent)?)
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .message_id(Some(format!("<{:032x}@{}>", u128::from_be_bytes(id), self.from.email.domain())))
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .header(ContentTransferEncoding::SevenBit)
            .body(body)
            .map_err(|_| MailError::Permanent)
    }
}

fn tls(settings: &SmtpSettings) -> Result<Tls, SettingsError> {
    let host = &settings.host;
    if settings.encryption == Encryption::None {
        return if is_loopback(host) {
            Ok(Tls::None)
        } else {
            Err(SettingsError::Plain { host: host.clone() })
        };
    }
    let mut parameters = TlsParameters::builder(host.clone());
    if let Some(authority) = &settings.authority {
        parameters =
            parameters.add_root_certificate(Certificate::from_pem(authority).map_err(SettingsError::Tls)?);
    }
    let parameters = parameters.build_rustls().map_err(SettingsError::Tls)?;
    Ok(match settings.encryption {
        Encryption::Implicit => Tls::Wrapper(parameters),
        _ => Tls::Required(parameters),
    })
}

/// Whether the name is this machine's own by its form: names that are looked up may lead elsewhere.
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Tells other machines not to answer (RFC 3834 section 5).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

#[async_trait]
impl SendMail for SmtpMailer {
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
        let answer = self.hand_over(&mail).await;
        count(&answer, 1);
        if let Err(error) = &answer {
            // Neither the address nor what the server said, which quotes it.
            tracing::warn!(reason = %error, "a mail was not handed over; its sender tries again if that may help");
        }
        answer
    }
}

impl SmtpMailer {
    async fn hand_over(&self, mail: &Mail) -> Result<(), MailError> {
        let message = self.message(mail)?;
        // The transport's own limit is for connecting; a server may also fall silent later.
        match tokio::time::timeout(self.patience, self.transport.send(message)).await {
            Ok(sent) => sent.map(drop).map_err(|error| classify(&error)),
            Err(_) => Err(MailError::Temporary),
        }
    }
}

/// Counts what the mail server said. A mail that goes later is counted at each try.
fn count(answer: &Result<(), MailError>, by: u64) {
    let outcome = match answer {
        Ok(()) => "sent",
        Err(MailError::Permanent) => "refused",
        Err(MailError::Temporary | MailError::NoResponders) => "later",
    };
    metrics::counter!("omnirun_mailer_mails_total", "outcome" => outcome).increment(by);
}

/// What an error means for this mail. Its text is dropped: servers quote addresses in it.
fn classify(error: &smtp::Error) -> MailError {
    let status = error.status().map(u16::from);
    // Replies to authentication (RFC 4954 section 6): the settings are wrong, not the mail.
    if matches!(status, Some(530 | 534 | 535 | 538)) {
        tracing::error!(status, "the mail server refuses our user name or password; check the SMTP settings");
        return MailError::Temporary;
    }
    if error.is_tls() {
        tracing::error!(
            "the mail server's TLS certificate or encryption is not acceptable; check the SMTP settings"
        );
        return MailError::Temporary;
    }
    match error.is_permanent() {
        true => MailError::Permanent,
        false => MailError::Temporary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(host: &str, encryption: Encryption) -> SmtpSettings {
        let (host, from) = (host.to_owned(), "OmniRun <codes@example.org>".to_owned());
        SmtpSettings {
            host,
            port: 25,
            encryption,
            credentials: None,
            from,
            authority: None,
            patience: PATIENCE,
        }
    }

    #[test]
    fn only_a_loopback_address_goes_without_encryption() {
        for host in ["127.0.0.1", "127.9.9.9", "::1"] {
            SmtpMailer::new(settings(host, Encryption::None)).expect(host);
        }
        for host in ["mail.example.org", "10.0.0.1", "localhost", "127.0.0.1.example.org", ""] {
            let error = SmtpMailer::new(settings(host, Encryption::None)).expect_err(host);
            assert!(matches!(error, SettingsError::Plain { .. }), "{host}: {error}");
        }
    }

    #[test]
    fn a_sender_that_is_no_address_is_refused() {
        let settings = SmtpSettings { from: "nobody".to_owned(), ..settings("127.0.0.1", Encryption::None) };
        assert!(matches!(SmtpMailer::new(settings), Err(SettingsError::From(_))));
    }

    #[test]
    fn a_password_does_not_print() {
        let credentials = Credentials { user: "u".to_owned(), password: "hunter2".to_owned().into() };
        let settings =
            SmtpSettings { credentials: Some(credentials), ..settings("127.0.0.1", Encryption::None) };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
