//! Challenges: the AUTH log as the counter of tries, and what only memory knows of them.
//!
//! ```text
//!   auth.<challenge>.issued     expected 0      whose, until when, bound to which page
//!   auth.<challenge>.attempts   n-1 → n         spent before anything is compared; the sixth is refused
//!   auth.<challenge>.used       expected 0      the code was right, or a newer challenge took its place
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omnirun_commands_api::{Code, Rejection};
use omnirun_events::auth::{AttemptSpent, ChallengeIssued, ChallengeUsed};
use omnirun_events::envelope::{Actor, Draft, Head, Role};
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, ChallengeId, CommitId};
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};

use crate::address::Address;
use crate::codes::TRIES;
use crate::failure::Failure;
use crate::writer::{Appended, Writer};

/// Lines with a live challenge that are remembered, at most.
const NEWEST_MAX: usize = 50_000;

/// Challenges of which the newest ends the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Line {
    /// Those to sign in with an address.
    SignIn(Address),
    /// Those to give an account another address, whichever that is.
    ChangeEmail(AccountId),
}

/// The newest challenge of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// Its account, or the one that it would get.
    pub account: AccountId,
    /// The challenge.
    pub challenge: ChallengeId,
    /// Whether a page bound it to itself.
    pub is_bound: bool,
    /// When its code stops working.
    pub expires_at: Timestamp,
}

/// The challenges.
pub struct Challenges {
    writer: Arc<Writer>,
    newest: Mutex<HashMap<Line, Newest>>,
}

impl Challenges {
    /// Challenges in the AUTH log behind `writer`.
    pub fn new(writer: Arc<Writer>) -> Self {
        Self { writer, newest: Mutex::default() }
    }

    /// The newest live challenge of a line that this process issued.
    pub fn newest(&self, line: &Line, now: Timestamp) -> Option<Newest> {
        self.lock().get(line).copied().filter(|newest| now < newest.expires_at)
    }

    /// Makes `newest` the newest of its line and answers with the one it replaces.
    pub fn replace(&self, line: Line, newest: Newest, now: Timestamp) -> Result<Option<Newest>, Rejection> {
        let mut all = self.lock();
        if all.len() >= NEWEST_MAX && !all.contains_key(&line) {
            all.retain(|_, known| now < known.expires_at);
        }
        if all.len() >= NEWEST_MAX && !all.contains_key(&line) {
            let message = "Too many codes are on their way; try again in a minute.";
            return Err(Rejection::retryable(Code::RateLimited, message, Millis(60_000)));
        }
        Ok(all.insert(line, newest).filter(|old| old.challenge != newest.challenge))
    }

    /// Forgets the newest challenge of a line once its code was used.
    pub fn forget(&self, line: &Line, challenge: ChallengeId) {
        let mut all = self.lock();
        if all.get(line).is_some_and(|newest| newest.challenge == challenge) {
            all.remove(line);
        }
    }

    /// Forgets every challenge of an account: it is being erased.
    pub fn forget_account(&self, account: AccountId) {
        self.lock().retain(|_, newest| newest.account != account);
    }

    /// What was issued under this id, if it still is in the log.
    pub async fn issued(&self, challenge: ChallengeId) -> Result<Option<ChallengeIssued>, Failure> {
        let subject = SubjectKind::ChallengeIssued(challenge).into();
        let record = self.writer.last(&subject).await?.map(|(record, _)| record);
        Ok(record.and_then(|record| match record.events.into_iter().next() {
            Some(Event::ChallengeIssued(issued)) => Some(issued),
            _ => None,
        }))
    }

    /// Issues a challenge; [`Answer::Late`] if its id was issued before. Of the same command at two processes both may be first, and one
    /// is stored.
    pub async fn issue(
        &self,
        challenge: ChallengeId,
        commit: CommitId,
        issued: ChallengeIssued,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        self.append(SubjectKind::ChallengeIssued(challenge), Head::EMPTY, commit, issued.into(), now).await
    }

    /// The commit that used the code of a challenge, or that replaced the challenge.
    pub async fn used_by(&self, challenge: ChallengeId) -> Result<Option<CommitId>, Failure> {
        let used = self.writer.last(&SubjectKind::ChallengeUsed(challenge).into()).await?;
        Ok(used.map(|(record, _)| record.header.commit))
    }

    /// Uses a challenge up; [`Answer::Late`] if it was used before.
    pub async fn use_up(
        &self,
        challenge: ChallengeId,
        commit: CommitId,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        let subject = SubjectKind::ChallengeUsed(challenge);
        self.append(subject, Head::EMPTY, commit, ChallengeUsed {}.into(), now).await
    }

    /// Spends one try; [`Answer::Late`] if there is none left. Whoever got a try here may compare, nobody else.
    pub async fn spend_try(
        &self,
        challenge: ChallengeId,
        commit: CommitId,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        let kind = SubjectKind::ChallengeAttempts(challenge);
        let subject = Subject::from(kind);
        // Every lost race means that somebody else spent a try, so this ends.
        for _ in 0..=TRIES {
            let head = self.writer.last(&subject).await?.map_or(Head::EMPTY, |(_, head)| head);
            if head.version >= TRIES {
                return Ok(Answer::Late);
            }
            if self.append(kind, head, commit, AttemptSpent {}.into(), now).await? == Answer::First {
                return Ok(Answer::First);
            }
        }
        Ok(Answer::Late)
    }

    async fn append(
        &self,
        subject: SubjectKind,
        head: Head,
        commit: CommitId,
        event: Event,
        at: Timestamp,
    ) -> Result<Answer, Failure> {
        let actor = Actor::System(Role::Commands);
        let draft = Draft { commit, subject: subject.into(), at, actor, cause: None, events: vec![event] };
        Ok(match self.writer.append(&[draft], &[head]).await? {
            Appended::At(_) => Answer::First,
            Appended::Moved(_) => Answer::Late,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Line, Newest>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one was first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Yes: it is written.
    First,
    /// No: somebody else was, or nothing is left.
    Late,
}
