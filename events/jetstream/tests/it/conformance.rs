//! The suite that every store passes, on a real server; a restart is what an operator does. Crashes are in `faults`.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use omnirun_events::log::Store;
use omnirun_events::log::conformance::Harness;
use omnirun_jetstream::JetStreamLog;
use omnirun_test_support::NatsServer;

/// The server of one case.
#[derive(Default)]
struct JetStream(Mutex<Option<NatsServer>>);

impl JetStream {
    async fn connect(&self, url: &str) -> Arc<dyn Store> {
        let log = JetStreamLog::connect(&crate::common::options(url)).await;
        Arc::new(log.expect("the server is new enough and has the streams"))
    }
}

#[async_trait]
impl Harness for JetStream {
    async fn create(&self) -> Arc<dyn Store> {
        let server = crate::common::server().await;
        let url = server.url();
        *self.0.lock().expect("no case panicked while it held the server") = Some(server);
        self.connect(&url).await
    }

    async fn restart(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        drop(store);
        let url = {
            let mut server = self.0.lock().expect("as above");
            let server = server.as_mut().expect("a case creates its store first");
            server.restart();
            server.url()
        };
        self.connect(&url).await
    }
}

omnirun_events::conformance!(JetStream::default());
