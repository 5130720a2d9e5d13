//! How `omnirun up` sends mail: by the mail server that it was told, or to a mailbox in memory that is shown where it was started.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use omnirun_commands_api::mail::SendMail;
use omnirun_gateway::{Mailbox, ShownMail};
use omnirun_mailer::smtp::PATIENCE;
use omnirun_mailer::{Credentials, Encryption, MemoryMailbox, SentMail, SmtpMailer, SmtpSettings};
use url::Url;

use super::Options;
use crate::process;

/// Mails that the mailbox in memory keeps.
const MAILBOX_MAX: usize = 100;

/// The mailer, and the mailbox if it is that.
pub fn choose(options: &Options) -> Result<(Arc<dyn SendMail>, Option<Arc<Shown>>)> {
    let Some(server) = &options.smtp else {
        let mailbox = Arc::new(MemoryMailbox::new(MAILBOX_MAX, process::clock(), show));
        return Ok((mailbox.clone(), Some(Arc::new(Shown(mailbox)))));
    };
    let mailer =
        SmtpMailer::new(settings(server, &options.mail_from)?).context("cannot use the mail server")?;
    Ok((Arc::new(mailer), None))
}

/// To the terminal itself, never through the logger: whoever started `up` is the one who signs in.
fn show(mail: &SentMail) {
    println!("-- mail to {} --\n{}\n--", mail.to.0, mail.text);
}

/// The mailbox as the gateway shows it.
pub struct Shown(Arc<MemoryMailbox>);

impl Mailbox for Shown {
    fn mails(&self) -> Vec<ShownMail> {
        let shown = |mail: SentMail| ShownMail {
            to: mail.to.0,
            subject: mail.subject,
            text: mail.text,
            code: mail.code.0,
            at: mail.at,
        };
        self.0.recent().into_iter().map(shown).collect()
    }
}

/// Settings from a URL. Its text may hold a password, so no error shows it.
fn settings(server: &str, from: &str) -> Result<SmtpSettings> {
    let url = Url::parse(server).ok().context("--smtp is no URL such as smtp://user:password@host:587")?;
    let host = url.host_str().context("--smtp names no host")?.to_owned();
    let is_loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    let (encryption, port) = match url.scheme() {
        "smtps" => (Encryption::Implicit, 465),
        // A mail server on this machine needs no TLS; any other does.
        "smtp" if is_loopback => (Encryption::None, 25),
        "smtp" => (Encryption::StartTls, 587),
        _ => anyhow::bail!("--smtp begins with smtp:// or smtps://"),
    };
    let credentials = match (url.username(), url.password()) {
        ("", _) => None,
        (user, password) => Some(Credentials {
            user: decode(user)?,
            password: decode(password.context("--smtp names a user and no password")?)?.into(),
        }),
    };
    let port = url.port().unwrap_or(port);
    Ok(SmtpSettings {
        host,
        port,
        encryption,
        credentials,
        from: from.to_owned(),
        authority: None,
        patience: PATIENCE,
    })
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    Ok(decoded.ok().context("--smtp holds text that is not UTF-8")?.into_owned())
}
