//! The memory store against the suite that every store passes, and its own expiry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use omnirun_events::log::conformance::Harness;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Store, read_to_end};
use omnirun_events::*;

struct Memory;

#[async_trait]
impl Harness for Memory {
    async fn create(&self) -> Arc<dyn Store> {
        Arc::new(MemoryLog::default())
    }

    async fn restart(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store
    }
}

omnirun_events::conformance!(Memory);

#[tokio::test]
async fn records_older_than_the_age_are_gone() {
    let now = Arc::new(AtomicU64::new(1_000));
    let clock = now.clone();
    let log = MemoryLog::expiring(Millis(500), move || Timestamp(clock.load(Ordering::SeqCst)));
    let subject = Subject::from(SubjectKind::ChallengeUsed(ChallengeId::from_bytes([1; 16])));
    let entry = Entry {
        subject: subject.clone(),
        expected: Sequence::NONE,
        commit: CommitId::from_bytes([2; 16]),
        record: "used".into(),
    };
    log.append_all(Batch::one(entry)).await.expect("nothing was there");
    now.store(1_500, Ordering::SeqCst);
    assert_eq!(read_to_end(&log, Log::Auth, Filter::all(), Sequence::NONE).await.expect("up").len(), 1);
    now.store(1_501, Ordering::SeqCst);
    assert_eq!(read_to_end(&log, Log::Auth, Filter::all(), Sequence::NONE).await.expect("up").len(), 0);
    assert_eq!(log.last(&subject).await.expect("up"), None);
}
