//! Reading: pages, the end of the log, filters, restarts, slow readers.

use super::*;

/// Page edges lose and repeat nothing.
pub async fn pages_of_every_size_hand_out_every_record_once(harness: &dyn Harness) {
    let store = harness.create().await;
    let sequences = fill(&*store, 1, 7).await;
    for limit in [1, 2, 3, 6, 7, 8, 100] {
        for (skip, after) in [(0, Sequence::NONE), (3, sequences[2]), (7, sequences[6])] {
            let mut cursor = store.read(Log::Events, Filter::all(), after).await.expect("up");
            let mut seen = Vec::new();
            loop {
                let page = cursor.next(limit, Tail::Return).await.expect("up");
                assert!(page.records.len() <= limit);
                if page.records.is_empty() {
                    assert!(page.through >= after);
                    break;
                }
                seen.extend(page.records.iter().map(|stored| stored.sequence));
                assert!(page.through >= seen[seen.len() - 1], "a page reaches its last record");
            }
            assert_eq!(seen, sequences[skip..], "limit {limit} after {after}");
        }
    }
}

/// Waiting ends with the next record; returning does not wait for it.
pub async fn a_cursor_at_the_end_returns_an_empty_page_or_waits(harness: &dyn Harness) {
    let store = harness.create().await;
    let mut cursor = store.read(Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    assert!(cursor.next(10, Tail::Return).await.expect("up").records.is_empty());
    let (page, written) =
        join(cursor.next(10, Tail::Wait), put(&*store, subject(1), Sequence::NONE, "a")).await;
    let page = page.expect("up");
    assert_eq!(page.records.iter().map(|stored| stored.sequence).collect::<Vec<_>>(), [written]);
    assert!(cursor.next(10, Tail::Return).await.expect("up").records.is_empty());
}

/// Wildcards as NATS reads them, whichever store it is.
pub async fn a_filter_hands_out_only_what_it_takes(harness: &dyn Harness) {
    let store = harness.create().await;
    let one = fill(&*store, 1, 3).await;
    fill(&*store, 2, 3).await;
    let account = AccountId::from_bytes([2; 16]);
    let admission = Subject::from(SubjectKind::Admission(account));
    let admitted = put(&*store, admission, Sequence::NONE, "admitted").await;
    for (filter, expected) in [
        (Filter::exactly(&subject(1)), one),
        (Filter::admissions(), vec![admitted]),
        (Filter::account(account), vec![admitted]),
        (Filter::exactly(&subject(9)), vec![]),
    ] {
        let found = read_to_end(&*store, Log::Events, filter.clone(), Sequence::NONE).await.expect("up");
        let found: Vec<_> = found.into_iter().map(|stored| stored.sequence).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

/// A reader goes on from its own position after the store was away.
pub async fn a_cursor_follows_across_a_restart_of_the_store(harness: &dyn Harness) {
    let store = harness.create().await;
    let before = fill(&*store, 1, 5).await;
    let mut cursor = store.read(Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    let through = cursor.next(3, Tail::Return).await.expect("up").through;
    assert_eq!(through, before[2]);
    drop(cursor);
    let store = harness.restart(store).await;
    assert_eq!(store.head(Log::Events).await.expect("up"), before[4]);
    let after = put(&*store, subject(2), Sequence::NONE, "after").await;
    let mut cursor = store.read(Log::Events, Filter::all(), through).await.expect("up");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let page = cursor.next(10, Tail::Wait).await.expect("up");
        seen.extend(page.records.into_iter().map(|stored| stored.sequence));
    }
    assert_eq!(seen, [before[3], before[4], after]);
}

/// A reader that takes one record at a time beside writers that do not wait for it.
pub async fn a_slow_reader_misses_nothing_while_writers_go_on(harness: &dyn Harness) {
    const SUBJECTS: u8 = 4;
    const EACH: usize = 100;
    let store = harness.create().await;
    let mut cursor = store.read(Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    let writers = join_all((0..SUBJECTS).map(|n| fill(&*store, n, EACH)));
    let reader = async {
        let mut seen = Vec::new();
        while seen.len() < usize::from(SUBJECTS) * EACH {
            let page = cursor.next(1, Tail::Wait).await.expect("up");
            seen.extend(page.records.into_iter().map(|stored| stored.sequence));
        }
        seen
    };
    let (written, seen) = join(writers, reader).await;
    let mut written = written.concat();
    written.sort();
    assert_eq!(seen, written);
}

/// The answer of `last` is never older than the last acknowledged append.
pub async fn the_last_record_of_a_subject_is_the_one_appended_last(harness: &dyn Harness) {
    let store = harness.create().await;
    assert_eq!(store.last(&subject(1)).await.expect("up"), None);
    let mut expected = Sequence::NONE;
    for round in 0..20 {
        expected = put(&*store, subject(1), expected, &format!("{round}")).await;
        put(&*store, subject(2), Sequence::NONE, "other").await;
        let last = store.last(&subject(1)).await.expect("up").expect("it was just appended");
        assert_eq!((last.sequence, last.record), (expected, Bytes::from(format!("record {round}"))));
    }
}
