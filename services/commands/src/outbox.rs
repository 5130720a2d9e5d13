//! Mail on its way out: sent in the background, tried again from memory, never written anywhere. A restart costs a user one resend.

use std::sync::Arc;
use std::time::Duration;

use omnirun_commands_api::mail::{Mail, MailError, SendMail};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Mails that wait, at most; more are dropped, and their users ask again.
const WAITING_MAX: usize = 256;

/// Mails that are being sent at once, retries included.
const SENDING_MAX: usize = 64;

/// Pauses before each further try. Together shorter than a code is valid.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// A mail, and whoever wants to know when it is sent or given up.
struct Waiting {
    mail: Mail,
    over: Option<oneshot::Sender<()>>,
}

/// Where mails are handed over. Dropping it ends what is under way.
pub struct Outbox {
    waiting: mpsc::Sender<Waiting>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Outbox {
    /// An outbox that hands mails to `mail`. Needs a tokio runtime.
    pub fn start(mail: Arc<dyn SendMail>) -> Self {
        let (waiting, incoming) = mpsc::channel(WAITING_MAX);
        Self { waiting, task: tokio::spawn(run(mail, incoming)) }
    }

    /// Takes one mail, at once. Nobody who asks for a code waits for a mail server.
    pub fn hand_over(&self, mail: Mail) {
        self.take(Waiting { mail, over: None });
    }

    /// Takes one mail and waits until the mail server has it, or it was given up, for so long at most; it is tried further after that.
    pub async fn deliver(&self, mail: Mail, within: Duration) {
        let (over, is_over) = oneshot::channel();
        self.take(Waiting { mail, over: Some(over) });
        // Dropped unsent: given up as well.
        let _ = tokio::time::timeout(within, is_over).await;
    }

    fn take(&self, waiting: Waiting) {
        if self.waiting.try_send(waiting).is_err() {
            count("dropped");
            tracing::warn!("a mail was dropped: too many wait for the mail server");
        }
    }
}

async fn run(mail: Arc<dyn SendMail>, mut incoming: mpsc::Receiver<Waiting>) {
    let mut sending = JoinSet::new();
    while let Some(next) = incoming.recv().await {
        while sending.len() >= SENDING_MAX {
            sending.join_next().await;
        }
        while sending.try_join_next().is_some() {}
        let mail = mail.clone();
        sending.spawn(async move {
            send(mail, next.mail).await;
            // Nobody may be waiting any more.
            next.over.map(|over| over.send(()));
        });
    }
}

async fn send(mail: Arc<dyn SendMail>, what: Mail) {
    let mut pauses = PAUSES.iter();
    loop {
        match (mail.send_mail(what.clone()).await, pauses.next()) {
            (Ok(()), _) => return count("sent"),
            (Err(MailError::Temporary | MailError::NoResponders), Some(pause)) => {
                count("retried");
                tokio::time::sleep(*pause).await;
            }
            (Err(error), _) => {
                count("failed");
                return tracing::warn!(reason = %error, "a mail could not be sent");
            }
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("omnirun_mails_total", "outcome" => outcome).increment(1);
}
