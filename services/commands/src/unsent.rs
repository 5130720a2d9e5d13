//! Challenges that were issued, or are about to be, and whose mails are not handed over: whatever breaks a command off in between, its mail goes
//! out when it comes again. In memory; a restart costs a user one resend.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use omnirun_events::id::ChallengeId;
use omnirun_events::unit::Timestamp;

/// The challenges, and until when their codes work.
#[derive(Debug, Default)]
pub struct Unsent(Mutex<HashMap<ChallengeId, Timestamp>>);

impl Unsent {
    /// This process is about to issue a challenge, and its mail is this process's to send. As many are kept as may be asked for while one works
    /// ([`crate::limits`]).
    pub fn add(&self, challenge: ChallengeId, expires_at: Timestamp, now: Timestamp) {
        let mut all = self.lock();
        all.retain(|_, expires_at| now < *expires_at);
        all.insert(challenge, expires_at);
    }

    /// Whether the mail of a challenge is still this process's to send.
    pub fn has(&self, challenge: ChallengeId) -> bool {
        self.lock().contains_key(&challenge)
    }

    /// The mail of a challenge is handed over.
    pub fn remove(&self, challenge: ChallengeId) {
        self.lock().remove(&challenge);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChallengeId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
