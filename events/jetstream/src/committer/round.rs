//! Who goes together: one commit of each subject, and nobody whose expectation is known to be stale.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use omnirun_events::{Sequence, Subject};

use super::Waiting;

/// Commits in one atomic batch. The server takes 1,000; beyond a few hundred a fsync costs no less per commit.
const ROUND_COMMITS: usize = 256;

/// Bytes of records in one atomic batch.
const ROUND_BYTES: usize = 4 << 20;

/// Subjects whose last position is remembered. At the limit all are forgotten: the table only spares refused batches.
const KNOWN_SUBJECTS: usize = 100_000;

/// Last positions of subjects as this process has seen them. Other processes append and purge too, so it is a hint: it decides who
/// asks the server first, never what anybody is answered.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<Subject, Sequence>>);

impl Known {
    /// Remembers that `subject` has reached `position`.
    pub(crate) fn note(&self, subject: &Subject, position: Sequence) {
        let mut known = self.lock();
        if known.len() >= KNOWN_SUBJECTS && !known.contains_key(subject) {
            known.clear();
        }
        known.insert(subject.clone(), position);
    }

    /// Forgets everything: after a purge the old positions only cost round trips.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn is_stale(&self, subject: &Subject, expected: Sequence) -> bool {
        self.lock().get(subject).is_some_and(|last| expected < *last)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Sequence>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is taken from the queue at once.
pub(super) struct Round {
    /// To be sent as one batch; each of another subject.
    pub(super) together: Vec<Waiting>,
    /// Not where their writers think, as far as is known.
    pub(super) stale: Vec<Waiting>,
}

/// Takes the next round; the rest stays in `waiting`, in order. Takes at least one if there is one.
pub(super) fn take(waiting: &mut VecDeque<Waiting>, known: &Known) -> Round {
    let mut round = Round { together: Vec::new(), stale: Vec::new() };
    let mut subjects = HashSet::new();
    let mut bytes = 0;
    let mut later = VecDeque::new();
    while let Some(next) = waiting.pop_front() {
        if known.is_stale(&next.entry.subject, next.entry.expected) {
            round.stale.push(next);
            continue;
        }
        let size = next.entry.record.len();
        let has_room = round.together.len() < ROUND_COMMITS && (bytes == 0 || bytes + size <= ROUND_BYTES);
        if has_room && subjects.insert(next.entry.subject.clone()) {
            bytes += size;
            round.together.push(next);
        } else {
            later.push_back(next);
        }
    }
    *waiting = later;
    round
}

#[cfg(test)]
mod tests {
    use omnirun_events::log::Entry;
    use omnirun_events::{AccountId, CommitId, SandboxId, SubjectKind};
    use tokio::sync::oneshot;

    use super::*;
    use crate::publish::Message;

    fn subject(n: u8) -> Subject {
        SubjectKind::Sandbox(AccountId::from_bytes([1; 16]), SandboxId::from_bytes([n; 16])).into()
    }

    fn waiting(n: u8, expected: u64, size: usize) -> Waiting {
        let commit = CommitId::from_bytes([n; 16]);
        let record = vec![0; size].into();
        let entry = Entry { subject: subject(n), expected: Sequence(expected), commit, record };
        Waiting { message: Message::of(&entry), entry, answer: oneshot::channel().0 }
    }

    fn names(waiting: &[Waiting]) -> Vec<(Subject, u64)> {
        waiting.iter().map(|w| (w.entry.subject.clone(), w.entry.expected.0)).collect()
    }

    #[test]
    fn a_round_has_one_commit_of_each_subject_and_leaves_the_rest_in_order() {
        let mut queue =
            VecDeque::from([waiting(1, 0, 1), waiting(1, 5, 1), waiting(2, 0, 1), waiting(1, 6, 1)]);
        let round = take(&mut queue, &Known::default());
        assert_eq!(names(&round.together), [(subject(1), 0), (subject(2), 0)]);
        assert!(round.stale.is_empty());
        assert_eq!(names(queue.make_contiguous()), [(subject(1), 5), (subject(1), 6)]);
    }

    #[test]
    fn a_commit_known_to_be_stale_does_not_spoil_the_batch() {
        let known = Known::default();
        known.note(&subject(1), Sequence(9));
        let mut queue = VecDeque::from([waiting(1, 3, 1), waiting(2, 0, 1), waiting(1, 9, 1)]);
        let round = take(&mut queue, &known);
        assert_eq!(names(&round.stale), [(subject(1), 3)]);
        assert_eq!(names(&round.together), [(subject(2), 0), (subject(1), 9)]);
    }

    #[test]
    fn after_a_purge_nothing_is_known_to_be_stale() {
        let known = Known::default();
        known.note(&subject(1), Sequence(9));
        known.forget();
        let round = take(&mut VecDeque::from([waiting(1, 0, 1)]), &known);
        assert_eq!(names(&round.together), [(subject(1), 0)]);
    }

    #[test]
    fn a_round_stays_within_its_limits_but_takes_one_record_of_any_size() {
        let mut queue = VecDeque::from([waiting(1, 0, ROUND_BYTES + 1), waiting(2, 0, 1)]);
        assert_eq!(names(&take(&mut queue, &Known::default()).together), [(subject(1), 0)]);
        let mut queue: VecDeque<_> = (0..=255).map(|n| waiting(n, 0, 1)).collect();
        let round = take(&mut queue, &Known::default());
        assert_eq!((round.together.len(), queue.len()), (ROUND_COMMITS, 0));
    }
}
