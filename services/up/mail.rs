//! How `omnirun up` sends mail: by the mail server that it was told, or to a mailbox in memory that is shown where it was started.

use std::sync::Arc;

use anyhow::Result;
use omnirun_commands_api::mail::SendMail;
use omnirun_gateway::{Mailbox, ShownMail};
use omnirun_mailer::{MemoryMailbox, SentMail};

use super::Options;
use crate::process;
use crate::wiring::smtp;

/// Mails that the mailbox in memory keeps.
const MAILBOX_MAX: usize = 100;

/// How mail is sent, and where it is shown.
pub struct Mail {
    /// Sends, or keeps.
    pub send: Arc<dyn SendMail>,
    /// The mailbox in memory; none when a mail server is used.
    pub mailbox: Option<Arc<Shown>>,
}

/// By the mail server that `up` was told, else to memory.
pub fn choose(options: &Options) -> Result<Mail> {
    let Some(server) = &options.smtp else {
        let mailbox = Arc::new(MemoryMailbox::new(MAILBOX_MAX, process::clock(), show));
        return Ok(Mail { send: mailbox.clone(), mailbox: Some(Arc::new(Shown(mailbox))) });
    };
    Ok(Mail { send: Arc::new(smtp::mailer(server, &options.mail_from)?), mailbox: None })
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
            code: mail.code.map(|code| code.0),
            at: mail.at,
        };
        self.0.recent().into_iter().map(shown).collect()
    }
}
