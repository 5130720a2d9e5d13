//! The suite that every store passes, on sled in a temporary directory; a restart closes the store and opens it again.

use std::sync::Arc;

use async_trait::async_trait;
use omnirun_events::log::Store;
use omnirun_events::log::conformance::Harness;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::{Millis, Timestamp};
use omnirun_sled::{EmbeddedLog, Options, SledLog};
use tempfile::TempDir;

struct Sled(TempDir);

impl Sled {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn open(&self) -> Arc<dyn Store> {
        let kept = SledLog::open(self.0.path(), Options::default()).expect("the directory is ours");
        Arc::new(EmbeddedLog::new(kept, MemoryLog::expiring(Millis(60_000), || Timestamp(0))))
    }
}

#[async_trait]
impl Harness for Sled {
    async fn create(&self) -> Arc<dyn Store> {
        self.open()
    }

    async fn restart(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        assert_eq!(Arc::strong_count(&store), 1, "nobody else holds the store");
        drop(store);
        self.open()
    }
}

omnirun_events::conformance!(Sled::new());
