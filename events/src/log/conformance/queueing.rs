//! Competing consumers: sharing, redelivery, restarts.

use super::*;

const GROUP: ConsumerName = ConsumerName("conformance");

async fn member(store: &dyn Store) -> Box<dyn Consumer> {
    store.consume(Log::Events, Filter::from_text("evt.*.sandbox.*"), GROUP).await.expect("up")
}

/// Every record to exactly one member when all acknowledge.
pub async fn members_of_a_group_share_the_records_between_them(harness: &dyn Harness) {
    let store = harness.create().await;
    let written = fill(&*store, 1, 6).await;
    let (mut one, mut two) = (member(&*store).await, member(&*store).await);
    let mut seen = Vec::new();
    for _ in 0..3 {
        for consumer in [&mut one, &mut two] {
            let delivery = consumer.next().await.expect("up");
            assert_eq!(delivery.attempt, 1);
            seen.push(delivery.stored.sequence);
            delivery.receipt.acknowledge().await.expect("up");
        }
    }
    seen.sort();
    assert_eq!(seen, written);
}

/// A worker that dies with a request in hand does not take it to its grave.
pub async fn what_a_dropped_member_held_is_delivered_to_another(harness: &dyn Harness) {
    let store = harness.create().await;
    let written = fill(&*store, 1, 2).await;
    let (mut one, mut two) = (member(&*store).await, member(&*store).await);
    let held = one.next().await.expect("up");
    let other = two.next().await.expect("up");
    assert_eq!((held.stored.sequence, other.stored.sequence), (written[0], written[1]));
    other.receipt.acknowledge().await.expect("up");
    drop(held);
    drop(one);
    let again = two.next().await.expect("up");
    assert_eq!((again.stored.sequence, again.attempt), (written[0], 2));
    again.receipt.acknowledge().await.expect("up");
}

/// Acknowledged is acknowledged.
pub async fn an_acknowledged_record_is_not_delivered_after_a_restart(harness: &dyn Harness) {
    let store = harness.create().await;
    let written = fill(&*store, 1, 2).await;
    let mut consumer = member(&*store).await;
    consumer.next().await.expect("up").receipt.acknowledge().await.expect("up");
    drop(consumer);
    let store = harness.restart(store).await;
    let delivery = member(&*store).await.next().await.expect("up");
    assert_eq!(delivery.stored.sequence, written[1]);
    delivery.receipt.acknowledge().await.expect("up");
}

/// Held is not acknowledged.
pub async fn a_record_that_is_not_acknowledged_is_delivered_after_a_restart(harness: &dyn Harness) {
    let store = harness.create().await;
    let written = fill(&*store, 1, 2).await;
    let mut consumer = member(&*store).await;
    let held = consumer.next().await.expect("up");
    let next = consumer.next().await.expect("up");
    next.receipt.acknowledge().await.expect("up");
    drop((held, consumer));
    let store = harness.restart(store).await;
    let delivery = member(&*store).await.next().await.expect("up");
    assert_eq!(delivery.stored.sequence, written[0]);
    delivery.receipt.acknowledge().await.expect("up");
}
