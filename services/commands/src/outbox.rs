//! Mail on its way out: sent in the background, tried again from memory, never written anywhere. A restart costs a user one resend.

use std::collections::VecDeque;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use omnirun_commands_api::mail::{Mail, MailError, SendMail};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Mails that wait for their first try, at most; more are dropped, and their users ask again.
const WAITING_MAX: usize = 256;

/// Mails that are being sent at once. One that waits for another try has no place among them.
const SENDING_MAX: usize = 64;

/// Mails that wait for another try, at most; the oldest of them gives way.
const PUT_OFF_MAX: usize = 1024;

/// Pauses before each further try. Together shorter than a code is valid.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// A mail, the pauses that are left to it, and whoever wants to know when it is sent or given up.
struct Waiting {
    mail: Mail,
    pauses: slice::Iter<'static, Duration>,
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
        self.take(mail, None);
    }

    /// Takes one mail and waits until the mail server has it, or it was given up, for so long at most; it is tried further after that.
    pub async fn deliver(&self, mail: Mail, within: Duration) {
        let (over, is_over) = oneshot::channel();
        self.take(mail, Some(over));
        // Dropped unsent: given up as well.
        let _ = tokio::time::timeout(within, is_over).await;
    }

    fn take(&self, mail: Mail, over: Option<oneshot::Sender<()>>) {
        if self.waiting.try_send(Waiting { mail, pauses: PAUSES.iter(), over }).is_err() {
            count("dropped");
            tracing::warn!("a mail was dropped: too many wait for the mail server");
        }
    }
}

/// Mails that wait for another try, and until when; the oldest first.
#[derive(Default)]
struct PutOff(VecDeque<(Instant, Waiting)>);

impl PutOff {
    fn add(&mut self, until: Instant, waiting: Waiting) {
        if self.0.len() >= PUT_OFF_MAX {
            self.0.pop_front();
            count("dropped");
            tracing::warn!("a mail was dropped: too many wait for another try");
        }
        self.0.push_back((until, waiting));
    }

    /// Waits for the next one whose time has come. May be dropped and called again.
    async fn due(&mut self) -> Waiting {
        let times = self.0.iter().map(|(until, _)| *until).enumerate();
        if let Some((index, until)) = times.min_by_key(|(_, until)| *until) {
            tokio::time::sleep_until(until).await;
            if let Some((_, waiting)) = self.0.remove(index) {
                return waiting;
            }
        }
        std::future::pending().await
    }
}

async fn run(mail: Arc<dyn SendMail>, mut incoming: mpsc::Receiver<Waiting>) {
    let (mut sending, mut put_off) = (JoinSet::new(), PutOff::default());
    loop {
        let has_place = sending.len() < SENDING_MAX;
        let next = tokio::select! {
            // In this order, so that a first try goes before others.
            biased;
            Some(tried) = sending.join_next() => {
                if let Ok(Some((until, waiting))) = tried {
                    put_off.add(until, waiting);
                }
                continue;
            }
            first = incoming.recv(), if has_place => match first {
                Some(first) => first,
                // The service has ended.
                None => return,
            },
            again = put_off.due(), if has_place => again,
        };
        sending.spawn(send(mail.clone(), next));
    }
}

/// One try; the mail again if there is to be another one, and when.
async fn send(mail: Arc<dyn SendMail>, mut what: Waiting) -> Option<(Instant, Waiting)> {
    match (mail.send_mail(what.mail.clone()).await, what.pauses.next()) {
        (Ok(()), _) => count("sent"),
        (Err(MailError::Temporary | MailError::NoResponders), Some(pause)) => {
            count("retried");
            return Some((Instant::now() + *pause, what));
        }
        (Err(error), _) => {
            count("failed");
            tracing::warn!(reason = %error, "a mail could not be sent");
        }
    }
    // Nobody may be waiting any more.
    what.over.map(|over| over.send(()));
    None
}

fn count(outcome: &'static str) {
    metrics::counter!("omnirun_mails_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use omnirun_commands_api::command::Personal;
    use omnirun_commands_api::mail::Content;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A mail server that puts off each mail to `LATER`, and tells of each try to whom it was.
    struct Double(mpsc::UnboundedSender<String>);

    const LATER: &str = "later@example.org";

    #[async_trait]
    impl SendMail for Double {
        async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
            let to = mail.to.into_revealed();
            let result = if to == LATER { Err(MailError::Temporary) } else { Ok(()) };
            self.0.send(to).expect("the test listens");
            result
        }
    }

    fn mail(to: &str) -> Mail {
        Mail { to: Personal::new(to), content: Content::EmailChanged }
    }

    #[tokio::test]
    async fn a_mail_is_sent_at_once_while_more_than_all_places_wait_for_another_try() {
        let (told, mut tries) = mpsc::unbounded_channel();
        let outbox = Outbox::start(Arc::new(Double(told)));
        (0..=SENDING_MAX).for_each(|_| outbox.hand_over(mail(LATER)));
        outbox.hand_over(mail("now@example.org"));
        let arrives = async { while tries.recv().await.expect("the outbox lives") == LATER {} };
        tokio::time::timeout(PATIENCE, arrives).await.expect("it waits for none of them");
    }

    #[tokio::test]
    async fn a_mail_that_was_put_off_is_tried_again() {
        let (told, mut tries) = mpsc::unbounded_channel();
        let outbox = Outbox::start(Arc::new(Double(told)));
        outbox.hand_over(mail(LATER));
        let twice = async { (tries.recv().await, tries.recv().await) };
        let twice = tokio::time::timeout(PATIENCE, twice).await.expect("after a second");
        assert_eq!(twice, (Some(LATER.to_owned()), Some(LATER.to_owned())));
    }

    #[tokio::test]
    async fn of_too_many_mails_that_wait_for_another_try_the_oldest_gives_way() {
        let mut put_off = PutOff::default();
        let now = Instant::now();
        // The oldest is not the one that is due first.
        for n in 0..=PUT_OFF_MAX {
            let waiting = Waiting { mail: mail(&n.to_string()), pauses: PAUSES.iter(), over: None };
            put_off.add(now - Duration::from_millis(n as u64), waiting);
        }
        let mut left = Vec::new();
        while !put_off.0.is_empty() {
            left.push(put_off.due().await.mail.to.into_revealed());
        }
        let expected: Vec<_> = (1..=PUT_OFF_MAX).rev().map(|n| n.to_string()).collect();
        assert_eq!(left, expected);
    }
}
