//! Appending: positions, conflicts, all or nothing, retries.

use super::*;

/// Writers that race for one subject.
const WRITERS: usize = 32;

/// What was appended is there, under the position that was answered.
pub async fn an_append_is_answered_with_its_position_and_read_back(harness: &dyn Harness) {
    let store = harness.create().await;
    assert_eq!(store.head(Log::Events).await.expect("up"), Sequence::NONE);
    let first = put(&*store, subject(1), Sequence::NONE, "a").await;
    let second = put(&*store, subject(1), first, "b").await;
    assert!(Sequence::NONE < first && first < second);
    let expected = vec![(first, Bytes::from("record a")), (second, Bytes::from("record b"))];
    assert_eq!(everything(&*store).await, expected);
    assert_eq!(store.head(Log::Events).await.expect("up"), second);
}

/// One winner; every loser is told where the subject is.
pub async fn of_32_racing_writers_exactly_one_wins_and_the_others_learn_the_position(harness: &dyn Harness) {
    let store = harness.create().await;
    let mut expected = Sequence::NONE;
    for round in 0..5 {
        let race = (0..WRITERS).map(|writer| {
            let entry = entry(subject(1), expected, &format!("{round}/{writer}"));
            store.append_all(Batch::one(entry))
        });
        let results = join_all(race).await;
        let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        let won = winners[0][0];
        for lost in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(matches!(lost, AppendError::Conflict { actual, .. } if *actual == won), "{lost:?}");
        }
        expected = won;
    }
    assert_eq!(everything(&*store).await.len(), 5);
}

/// No conflict without a common subject, and no position is given twice.
pub async fn writers_on_different_subjects_do_not_disturb_each_other(harness: &dyn Harness) {
    let store = harness.create().await;
    join_all((0..WRITERS as u8).map(|writer| fill(&*store, writer, 4))).await;
    let sequences: Vec<_> = everything(&*store).await.into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(sequences.len(), WRITERS * 4);
    assert!(sequences.is_sorted_by(|a, b| a < b));
}

/// One stale expectation refuses the whole batch.
pub async fn a_batch_over_several_subjects_is_appended_whole_or_not_at_all(harness: &dyn Harness) {
    let store = harness.create().await;
    let first = put(&*store, subject(1), Sequence::NONE, "first").await;
    let stale = vec![entry(subject(2), Sequence::NONE, "whole"), entry(subject(1), Sequence::NONE, "whole")];
    let refused = store.append_all(Batch::new(stale).expect("two subjects of one log")).await;
    let names_the_subject = matches!(&refused, Err(AppendError::Conflict { subject: s, actual }) if *s == subject(1) && *actual == first);
    assert!(names_the_subject, "{refused:?}");
    assert_eq!(everything(&*store).await.len(), 1);

    let fresh = vec![entry(subject(2), Sequence::NONE, "whole"), entry(subject(1), first, "whole")];
    let positions =
        store.append_all(Batch::new(fresh).expect("two subjects of one log")).await.expect("both hold");
    let stored: Vec<_> = everything(&*store).await.into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(stored, [vec![first], positions].concat());
}

/// A retry, late or in a race with itself, is answered like the first try.
pub async fn appending_a_stored_commit_again_answers_its_first_position(harness: &dyn Harness) {
    let store = harness.create().await;
    let batch =
        Batch::new(vec![entry(subject(1), Sequence::NONE, "x"), entry(subject(2), Sequence::NONE, "x")]);
    let batch = batch.expect("two subjects of one log");
    let twins = join_all((0..8).map(|_| store.append_all(batch.clone()))).await;
    let first = twins[0].as_ref().expect("a retry is no conflict").clone();
    assert!(twins.iter().all(|twin| twin.as_ref().is_ok_and(|positions| *positions == first)), "{twins:?}");

    put(&*store, subject(1), first[0], "later").await;
    assert_eq!(store.append_all(batch).await.expect("a late retry is no conflict"), first);
    assert_eq!(everything(&*store).await.len(), 3);
}

/// Expecting what is not there yet is as wrong as expecting what is gone.
pub async fn an_expectation_beyond_the_last_position_is_a_conflict(harness: &dyn Harness) {
    let store = harness.create().await;
    let first = put(&*store, subject(1), Sequence::NONE, "a").await;
    for (subject_number, expected, actual) in [(1, Sequence(first.0 + 5), first), (2, first, Sequence::NONE)]
    {
        let answer = store.append_all(Batch::one(entry(subject(subject_number), expected, "b"))).await;
        assert!(
            matches!(&answer, Err(AppendError::Conflict { actual: a, .. }) if *a == actual),
            "{answer:?}"
        );
    }
}

/// A meter reading does not move the events on.
pub async fn logs_number_their_records_separately(harness: &dyn Harness) {
    let store = harness.create().await;
    let event = put(&*store, subject(1), Sequence::NONE, "event").await;
    let meter = put(&*store, usage_subject(1), Sequence::NONE, "meter").await;
    assert_eq!(store.head(Log::Events).await.expect("up"), event);
    assert_eq!(store.head(usage_subject(1).log()).await.expect("up"), meter);
    assert_eq!(everything(&*store).await.len(), 1);
}
