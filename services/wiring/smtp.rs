//! The mail server that was named on the command line.

use anyhow::{Context as _, Result};
use omnirun_mailer::smtp::PATIENCE;
use omnirun_mailer::{Credentials, Encryption, SmtpMailer, SmtpSettings};
use url::Url;

/// A mailer for the server at this URL. Its text may hold a password, so no error shows it.
pub fn mailer(server: &str, from: &str) -> Result<SmtpMailer> {
    SmtpMailer::new(settings(server, from)?).context("cannot use the mail server")
}

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
