//! How `omnirun up` sends mail: by the mail server that it was told, or to a mailbox in memory that is shown on the terminal where it was
//! started.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
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

/// Where mail is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Where it was sent to.
    Sent,
    /// On the terminal where `up` was started, and in the mailbox.
    Terminal,
    /// In the mailbox alone: what is printed is kept by whoever reads it, such as the journal.
    Mailbox,
}

/// How mail is sent, and where it is shown.
pub struct Mail {
    /// Sends, or keeps.
    pub send: Arc<dyn SendMail>,
    /// The mailbox in memory; none when a mail server is used.
    pub mailbox: Option<Arc<Shown>>,
    /// Where it is seen.
    pub seen: Seen,
}

/// By the mail server that `up` was told, else to memory. `address` is the API's.
pub fn choose(options: &Options, address: SocketAddr) -> Result<Mail> {
    if let Some(server) = &options.smtp {
        let send = Arc::new(smtp::mailer(server, &options.mail_from)?);
        return Ok(Mail { send, mailbox: None, seen: Seen::Sent });
    }
    let seen = if std::io::stdout().is_terminal() { Seen::Terminal } else { Seen::Mailbox };
    let show = move |mail: &SentMail| show(mail, seen, address);
    let mailbox = Arc::new(MemoryMailbox::new(MAILBOX_MAX, process::clock(), show));
    Ok(Mail { send: mailbox.clone(), mailbox: Some(Arc::new(Shown(mailbox))), seen })
}

/// To the terminal itself, never through the logger: whoever started `up` is the one who signs in. Elsewhere only that there is one, for
/// what is printed there stays on a disk.
fn show(mail: &SentMail, seen: Seen, address: SocketAddr) {
    match seen {
        Seen::Terminal => println!("-- mail to {} --\n{}\n--", mail.to.reveal(), mail.text),
        Seen::Mailbox => println!("-- a mail is at http://{address}/dev/mailbox --"),
        Seen::Sent => {}
    }
}

/// The mailbox as the gateway shows it.
pub struct Shown(Arc<MemoryMailbox>);

impl Mailbox for Shown {
    fn mails(&self) -> Vec<ShownMail> {
        let shown = |mail: SentMail| ShownMail {
            to: mail.to.into_revealed(),
            subject: mail.subject,
            text: mail.text,
            code: mail.code.map(|code| code.reveal().to_owned()),
            at: mail.at,
        };
        self.0.recent().into_iter().map(shown).collect()
    }
}
