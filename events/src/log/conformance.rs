//! One suite that every store passes: the rules of [`super`] as code.
//!
//! A store's crate implements [`Harness`] and calls [`conformance!`](crate::conformance) in a test module. Cases make
//! their own logs; nothing here knows which store it runs on.

use std::sync::Arc;

use futures_util::future::{join, join_all};

use super::*;
use crate::id::{AccountId, SandboxId};
use crate::subject::{Slot, SubjectKind};

mod appending;
mod erasing;
mod queueing;
mod reading;

pub use appending::*;
pub use erasing::*;
pub use queueing::*;
pub use reading::*;

/// How the suite gets at a store.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A new store without records.
    async fn create(&self) -> Arc<dyn Store>;

    /// The same records after the store was stopped and started again, as far as the store outlives its process.
    async fn restart(&self, store: Arc<dyn Store>) -> Arc<dyn Store>;
}

/// Makes one `#[tokio::test]` per case of the suite for the harness that the expression makes.
#[macro_export]
macro_rules! conformance {
    ($harness:expr) => {
        $crate::conformance!($harness;
            an_append_is_answered_with_its_position_and_read_back,
            of_32_racing_writers_exactly_one_wins_and_the_others_learn_the_position,
            writers_on_different_subjects_do_not_disturb_each_other,
            a_batch_over_several_subjects_is_appended_whole_or_not_at_all,
            appending_a_stored_commit_again_answers_its_first_position,
            an_expectation_beyond_the_last_position_is_a_conflict,
            logs_number_their_records_separately,
            pages_of_every_size_hand_out_every_record_once,
            a_cursor_at_the_end_returns_an_empty_page_or_waits,
            a_filter_hands_out_only_what_it_takes,
            a_cursor_follows_across_a_restart_of_the_store,
            a_slow_reader_misses_nothing_while_writers_go_on,
            the_last_record_of_a_subject_is_the_one_appended_last,
            members_of_a_group_share_the_records_between_them,
            what_a_dropped_member_held_is_delivered_to_another,
            an_acknowledged_record_is_not_delivered_after_a_restart,
            a_record_that_is_not_acknowledged_is_delivered_after_a_restart,
            purging_a_subject_leaves_the_others_and_their_positions,
            after_a_purge_a_subject_starts_again_with_expected_0,
            purging_through_a_position_keeps_what_comes_after,
            positions_are_not_used_again_after_a_purge_and_a_restart,
        );
    };
    ($harness:expr; $($case:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            $crate::log::conformance::$case(&$harness).await;
        }
    )*};
}

/// A sandbox's subject; `n` tells them apart.
fn subject(n: u8) -> Subject {
    SubjectKind::Sandbox(AccountId::from_bytes([1; 16]), SandboxId::from_bytes([n; 16])).into()
}

/// A usage subject in slot 0.
fn usage_subject(n: u8) -> Subject {
    let slot = Slot::from_index(0).expect("there is a first slot");
    SubjectKind::Usage(slot, AccountId::from_bytes([1; 16]), SandboxId::from_bytes([n; 16])).into()
}

/// An entry whose commit and bytes follow from its label.
fn entry(subject: Subject, expected: Sequence, label: &str) -> Entry {
    Entry { subject, expected, commit: commit(label), record: Bytes::from(format!("record {label}")) }
}

fn commit(label: &str) -> CommitId {
    CommitId::derive(label.as_bytes(), "conformance")
}

/// Appends one entry that must not fail.
async fn put(store: &dyn Store, subject: Subject, expected: Sequence, label: &str) -> Sequence {
    let answer = store.append_all(Batch::one(entry(subject, expected, label))).await;
    answer.expect("the subject is where the test left it")[0]
}

/// Appends `count` records to one subject, one after the other.
async fn fill(store: &dyn Store, n: u8, count: usize) -> Vec<Sequence> {
    let mut sequences = Vec::new();
    let mut last = Sequence::NONE;
    for i in 0..count {
        last = put(store, subject(n), last, &format!("{n}/{i}")).await;
        sequences.push(last);
    }
    sequences
}

/// Everything in EVENTS, as (position, bytes).
async fn everything(store: &dyn Store) -> Vec<(Sequence, Bytes)> {
    let all = read_to_end(store, Log::Events, Filter::all(), Sequence::NONE).await.expect("the store is up");
    all.into_iter().map(|stored| (stored.sequence, stored.record)).collect()
}
