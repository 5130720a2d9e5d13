//! When the master key is rotated: in the night after something was erased, when an operator asks, and when a rotation was broken off.

use omnirun_commands_api::{Code, Outcome, Rejection, Reply};
use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::keys::MasterKeyRotated;
use omnirun_events::subject::{Subject, SubjectKind};
use omnirun_events::unit::Timestamp;
use omnirun_projections::erasures::Erasures;

use crate::decide::Decision;
use crate::failure::Failure;
use crate::keys::Rotated;
use crate::service::CommandService;

/// Milliseconds in an hour.
const HOUR: u64 = 3600 * 1000;

/// The hour of the day, in UTC, from which on the night's rotation is due.
const NIGHT: u64 = 3;

/// Whether it is time: something was erased that the last rotation did not make final, and that was not in this night. A day without an erasure
/// has none.
pub fn is_due(erasures: &Erasures, now: Timestamp) -> bool {
    let night = |at: Timestamp| at.0.saturating_sub(NIGHT * HOUR) / (24 * HOUR);
    let is_new = |(_, erased): (_, Timestamp)| night(erased) < night(now);
    let is_first = erasures.rotated().is_none_or(|(_, rotated)| night(rotated) < night(now));
    erasures.are_open() && is_first && erasures.last().is_some_and(is_new)
}

impl CommandService {
    /// Rotates the master key if it is time to, or if a rotation was broken off. Whether it did.
    pub async fn rotate_if_due(&self) -> Result<Option<Rotated>, Failure> {
        let _one_at_a_time = self.rotating.lock().await;
        // What somebody else has rotated meanwhile is not due any more.
        self.writer.catch_up().await?;
        let now = (self.clock)();
        let is_due = self.writer.directory.view(|directory, _| is_due(&directory.erasures, now));
        match is_due || self.master.is_rotating() {
            true => self.rotate().await.map(Some),
            false => Ok(None),
        }
    }

    /// Rotates the master key and says so on the log. Broken off before it is said, the next one says it.
    pub async fn rotate_master_key(&self) -> Result<Rotated, Failure> {
        let _one_at_a_time = self.rotating.lock().await;
        self.rotate().await
    }

    async fn rotate(&self) -> Result<Rotated, Failure> {
        let Rotated { epoch, keys, final_through } = self.keys.rotate().await?;
        let subject = Subject::from(SubjectKind::Erasure);
        let draft = Draft {
            commit: self.fresh_commit(),
            subject: subject.clone(),
            at: (self.clock)(),
            actor: Actor::System(Role::Commands),
            cause: None,
            events: vec![MasterKeyRotated { epoch, final_through }.into()],
        };
        let outcome = Outcome::MasterKeyRotated { epoch, keys };
        let decide = |_: &_| Ok(Decision::Write(vec![draft.clone()], outcome.clone()));
        self.writer.run(&[subject], decide).await?;
        tracing::info!(epoch, keys, final_through = final_through.0, "the master key was rotated");
        Ok(Rotated { epoch, keys, final_through })
    }

    pub(crate) async fn rotate_on_demand(&self, actor: Actor) -> Result<Reply, Failure> {
        if actor != Actor::Operator {
            return Err(Rejection::new(Code::NotFound, "Only an operator rotates the master key.").into());
        }
        let Rotated { epoch, keys, .. } = self.rotate_master_key().await?;
        Ok(Reply { position: None, outcome: Outcome::MasterKeyRotated { epoch, keys } })
    }
}

#[cfg(test)]
mod tests {
    use omnirun_events::account::EmailChanged;
    use omnirun_events::event::Event;
    use omnirun_events::sealing::{DataKeyLabel, Sealed};
    use omnirun_events::{AccountId, CommitId, Sequence};
    use omnirun_projections::{Directory, Fact, Fold as _};

    use super::*;

    const DAY: u64 = 24 * HOUR;

    /// Erasures of a history: an address changed, or a rotation that makes everything final through a position, each at its hour.
    fn history(facts: &[(u64, Option<u64>)]) -> Erasures {
        let mut directory = Directory::default();
        for (sequence, (hour, through)) in facts.iter().enumerate() {
            let (kind, event): (SubjectKind, Event) = match through {
                Some(through) => {
                    let rotated = MasterKeyRotated { epoch: 2, final_through: Sequence(*through) };
                    (SubjectKind::Erasure, rotated.into())
                }
                None => {
                    let email = Sealed { key: DataKeyLabel::Address(2), nonce: [0; 24], text: vec![1] };
                    (SubjectKind::Account(AccountId::from_bytes([1; 16])), EmailChanged { email }.into())
                }
            };
            directory.apply(&Fact {
                sequence: Sequence(sequence as u64 + 1),
                subject: &kind.into(),
                kind,
                at: Timestamp(10 * DAY + hour * HOUR),
                actor: Actor::Operator,
                commit: CommitId::from_bytes([0; 16]),
                event: &event,
            });
        }
        directory.erasures
    }

    fn due(facts: &[(u64, Option<u64>)], hour: u64) -> bool {
        is_due(&history(facts), Timestamp(10 * DAY + hour * HOUR))
    }

    #[test]
    fn nothing_erased_means_no_rotation() {
        assert!(!due(&[], 100));
        assert!(!due(&[(5, None), (6, Some(1))], 100));
    }

    #[test]
    fn what_was_erased_by_day_is_final_after_the_next_night() {
        assert!(!due(&[(12, None)], 13));
        assert!(!due(&[(12, None)], 24 + 2));
        assert!(due(&[(12, None)], 24 + 3));
        assert!(due(&[(12, None)], 24 * 9));
    }

    #[test]
    fn what_was_erased_while_a_rotation_ran_is_final_after_the_next_one() {
        let erased_meanwhile = [(12, None), (24 + 3, None), (24 + 4, Some(1))];
        assert!(history(&erased_meanwhile).are_open());
        assert!(!due(&erased_meanwhile, 24 + 5) && due(&erased_meanwhile, 48 + 3));
        assert!(!history(&[(12, None), (24 + 3, None), (24 + 4, Some(2))]).are_open());
    }

    #[test]
    fn a_rotation_that_went_on_with_the_epoch_of_another_is_followed_by_one_that_makes_final() {
        assert!(due(&[(12, None), (24 + 3, Some(0))], 24 + 4));
        assert!(!due(&[(12, None), (24 + 3, Some(0)), (24 + 4, Some(2))], 24 + 5));
    }

    #[test]
    fn a_night_has_one_rotation() {
        assert!(!due(&[(12, None), (24 + 3, Some(1)), (24 + 4, None)], 24 + 5));
        assert!(due(&[(12, None), (24 + 3, Some(1)), (24 + 4, None)], 48 + 3));
    }
}
