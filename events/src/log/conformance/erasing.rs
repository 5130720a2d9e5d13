//! Erasing: whole records, nothing beside them, and appending afterwards.

use super::*;

/// Other subjects keep their records and positions.
pub async fn purging_a_subject_leaves_the_others_and_their_positions(harness: &dyn Harness) {
    let store = harness.create().await;
    fill(&*store, 1, 3).await;
    let kept = fill(&*store, 2, 3).await;
    assert_eq!(store.purge_all(Log::Events, Filter::exactly(&subject(1))).await.expect("up"), 3);
    assert_eq!(store.purge_all(Log::Events, Filter::exactly(&subject(1))).await.expect("up"), 0);
    let left: Vec<_> = everything(&*store).await.into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(left, kept);
    assert_eq!(store.last(&subject(1)).await.expect("up"), None);
}

/// Erase, then append: the subject is new.
pub async fn after_a_purge_a_subject_starts_again_with_expected_0(harness: &dyn Harness) {
    let store = harness.create().await;
    let old = fill(&*store, 1, 2).await;
    store.purge_all(Log::Events, Filter::exactly(&subject(1))).await.expect("up");
    let stale = store.append_all(Batch::one(entry(subject(1), old[1], "stale"))).await;
    assert!(matches!(stale, Err(AppendError::Conflict { actual: Sequence::NONE, .. })), "{stale:?}");
    let new = put(&*store, subject(1), Sequence::NONE, "new").await;
    assert!(new > old[1]);
    assert_eq!(everything(&*store).await, [(new, Bytes::from("record new"))]);
}

/// The chain's end stays, so that appending goes on from it.
pub async fn purging_through_a_position_keeps_what_comes_after(harness: &dyn Harness) {
    let store = harness.create().await;
    let all = fill(&*store, 1, 4).await;
    let other = fill(&*store, 2, 1).await;
    assert_eq!(store.purge_through(&subject(1), all[2]).await.expect("up"), 3);
    let left: Vec<_> = everything(&*store).await.into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(left, [all[3], other[0]]);
    put(&*store, subject(1), all[3], "on").await;
}

/// A hole stays a hole, also when the records at the end were purged before a restart.
pub async fn positions_are_not_used_again_after_a_purge_and_a_restart(harness: &dyn Harness) {
    let store = harness.create().await;
    let old = fill(&*store, 1, 3).await;
    store.purge_all(Log::Events, Filter::all()).await.expect("up");
    let store = harness.restart(store).await;
    assert_eq!(store.head(Log::Events).await.expect("up"), old[2]);
    let new = put(&*store, subject(1), Sequence::NONE, "new").await;
    assert!(new > old[2]);
}
