//! A store that counts what is appended to it and taken from its queues, whichever store it is.

use std::sync::Arc;

use async_trait::async_trait;
use omnirun_events::log::{
    Append, AppendError, Batch, Consumer, ConsumerName, Delivery, Queue, ReadError, Sequence,
};
use omnirun_events::subject::{Filter, Log};

/// Counts and passes on.
pub struct Counted<S>(Arc<S>);

impl<S> Counted<S> {
    /// Counts what goes to `store`. The numbers are there from the start: what has never happened is 0, not missing.
    pub fn new(store: Arc<S>) -> Arc<Self> {
        for outcome in ["stored", "conflict", "unknown", "full"] {
            count_append(Log::Events, outcome, 0);
        }
        Arc::new(Self(store))
    }
}

fn count_append(log: Log, outcome: &'static str, by: u64) {
    metrics::counter!("omnirun_appends_total", "log" => log.to_string(), "outcome" => outcome).increment(by);
}

fn count_delivery(group: &'static str, time: &'static str, by: u64) {
    metrics::counter!("omnirun_queue_deliveries_total", "group" => group, "time" => time).increment(by);
}

#[async_trait]
impl<S: Append> Append for Counted<S> {
    async fn append_all(&self, batch: Batch) -> Result<Vec<Sequence>, AppendError> {
        let log = batch.log();
        let answer = self.0.append_all(batch).await;
        let outcome = match &answer {
            Ok(_) => "stored",
            Err(AppendError::Conflict { .. }) => "conflict",
            Err(AppendError::Unknown { .. }) => "unknown",
            Err(AppendError::Full { .. }) => "full",
        };
        count_append(log, outcome, 1);
        answer
    }
}

#[async_trait]
impl<S: Queue> Queue for Counted<S> {
    async fn consume(
        &self,
        log: Log,
        filter: Filter,
        name: ConsumerName,
    ) -> Result<Box<dyn Consumer>, ReadError> {
        let group = name.0;
        for time in ["first", "again"] {
            count_delivery(group, time, 0);
        }
        let consumer = self.0.consume(log, filter, name).await?;
        Ok(Box::new(CountedConsumer { consumer, group }))
    }
}

struct CountedConsumer {
    consumer: Box<dyn Consumer>,
    group: &'static str,
}

#[async_trait]
impl Consumer for CountedConsumer {
    async fn next(&mut self) -> Result<Delivery, ReadError> {
        let delivery = self.consumer.next().await?;
        count_delivery(self.group, if delivery.attempt > 1 { "again" } else { "first" }, 1);
        Ok(delivery)
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use omnirun_events::id::{AccountId, CommitId};
    use omnirun_events::log::Entry;
    use omnirun_events::log::memory::MemoryLog;
    use omnirun_events::subject::SubjectKind;

    use super::*;

    fn batch(commit: u8) -> Batch {
        let subject = SubjectKind::Admission(AccountId::from_bytes([1; 16])).into();
        let commit = CommitId::from_bytes([commit; 16]);
        Batch::one(Entry { subject, expected: Sequence::NONE, commit, record: "a record".into() })
    }

    #[test]
    fn what_is_stored_refused_and_delivered_again_is_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let log = Counted::new(Arc::new(MemoryLog::default()));
                log.append_all(batch(1)).await.expect("the subject is empty");
                log.append_all(batch(2)).await.expect_err("the subject has a record");
                let group = ConsumerName("group");
                let mut consumer =
                    log.consume(Log::Events, Filter::admissions(), group).await.expect("memory is up");
                drop(consumer.next().await.expect("there is one"));
                consumer
                    .next()
                    .await
                    .expect("it comes again")
                    .receipt
                    .acknowledge()
                    .await
                    .expect("memory is up");
            });
        });
        let text = shown.render();
        for line in [
            r#"omnirun_appends_total{log="EVENTS",outcome="stored"} 1"#,
            r#"omnirun_appends_total{log="EVENTS",outcome="conflict"} 1"#,
            r#"omnirun_appends_total{log="EVENTS",outcome="unknown"} 0"#,
            r#"omnirun_queue_deliveries_total{group="group",time="first"} 1"#,
            r#"omnirun_queue_deliveries_total{group="group",time="again"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
    }
}
