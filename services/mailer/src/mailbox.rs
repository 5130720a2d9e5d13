//! A mailbox in memory, for a machine without a mail server: the newest mails, shown where the operator of that machine looks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use omnirun_commands_api::command::Personal;
use omnirun_commands_api::mail::{Mail, MailError, OneTimeCode, SendMail};
use omnirun_events::unit::{Clock, Timestamp};
use serde::Serialize;

use crate::text::Text;

/// A mail that was "sent". Its Debug prints nothing of it.
#[derive(Clone, Serialize)]
pub struct SentMail {
    /// When.
    pub at: Timestamp,
    /// To whom.
    pub to: Personal,
    /// Its subject.
    pub subject: String,
    /// Its body.
    pub text: String,
    /// The code in it, as it is typed, if it has one.
    pub code: Option<OneTimeCode>,
}

impl fmt::Debug for SentMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SentMail([redacted])")
    }
}

/// Called with each mail, after it is in the mailbox. It must not log it.
pub type Show = Box<dyn Fn(&SentMail) + Send + Sync>;

/// The mailbox. It holds the newest mails and forgets the others; a restart forgets all.
pub struct MemoryMailbox {
    mails: Mutex<VecDeque<SentMail>>,
    kept_max: usize,
    clock: Clock,
    show: Show,
}

impl MemoryMailbox {
    /// A mailbox that keeps the newest `kept_max` mails and shows each one with `show` as it comes.
    pub fn new(kept_max: usize, clock: Clock, show: impl Fn(&SentMail) + Send + Sync + 'static) -> Self {
        Self { mails: Mutex::default(), kept_max, clock, show: Box::new(show) }
    }

    /// The mails that are kept, newest first.
    pub fn recent(&self) -> Vec<SentMail> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[async_trait]
impl SendMail for MemoryMailbox {
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
        let Text { subject, body } = Text::of(&mail.content);
        let code = mail.content.code().cloned();
        let sent =
            SentMail { at: (self.clock)(), to: mail.to, subject: subject.to_owned(), text: body, code };
        {
            let mut mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
            mails.push_front(sent.clone());
            mails.truncate(self.kept_max);
        }
        (self.show)(&sent);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use omnirun_commands_api::mail::Content;
    use omnirun_events::unit::Millis;

    use super::*;

    #[tokio::test]
    async fn the_newest_mails_are_kept_and_each_is_shown_once() {
        let shown = Arc::new(AtomicUsize::new(0));
        let count = shown.clone();
        let show = move |_: &SentMail| {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let mailbox = MemoryMailbox::new(2, Arc::new(|| Timestamp(5)), show);
        for code in ["000001", "000002", "000003"] {
            let content = Content::SignInCode { code: OneTimeCode::new(code), valid_for: Millis(600_000) };
            mailbox.send_mail(Mail { to: Personal::new("a@example.org"), content }).await.expect("room");
        }
        let codes: Vec<_> =
            mailbox.recent().into_iter().map(|mail| mail.code.expect("a code").reveal().to_owned()).collect();
        assert_eq!(
            (codes, shown.load(Ordering::SeqCst)),
            (vec!["000003".to_owned(), "000002".to_owned()], 3)
        );
        assert_eq!(format!("{:?}", mailbox.recent()[0]), "SentMail([redacted])");
    }
}
