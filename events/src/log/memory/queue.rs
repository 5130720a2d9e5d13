//! Competing consumers of the memory store: what is held is given back when its delivery is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;

/// Progress of one group.
pub(super) struct Group {
    filter: Filter,
    /// Everything up to here is acknowledged or in one of the two collections below.
    through: Sequence,
    /// Held by a member.
    held: BTreeSet<Sequence>,
    /// To be delivered again, with how often it was delivered.
    again: BTreeMap<Sequence, u32>,
}

impl Group {
    fn new(filter: Filter) -> Self {
        Self { filter, through: Sequence::NONE, held: BTreeSet::new(), again: BTreeMap::new() }
    }
}

#[async_trait]
impl Queue for MemoryLog {
    async fn consume(
        &self,
        log: Log,
        filter: Filter,
        name: ConsumerName,
    ) -> Result<Box<dyn Consumer>, ReadError> {
        let mut logs = self.shared.lock();
        logs.entry(log).or_default().groups.entry(name.0).or_insert_with(|| Group::new(filter));
        Ok(Box::new(MemoryConsumer { shared: self.shared.clone(), log, name }))
    }
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    log: Log,
    name: ConsumerName,
}

impl MemoryConsumer {
    fn take(&self) -> Option<Delivery> {
        let mut logs = self.shared.lock();
        let log = logs.get_mut(&self.log)?;
        let mut group = log.groups.remove(self.name.0)?;
        let found = group.take(log);
        log.groups.insert(self.name.0, group);
        let (stored, attempt) = found?;
        let receipt = MemoryReceipt {
            shared: self.shared.clone(),
            log: self.log,
            name: self.name.clone(),
            sequence: stored.sequence,
            attempt,
            is_answered: false,
        };
        Some(Delivery { stored, attempt, receipt: Box::new(receipt) })
    }
}

impl Group {
    fn take(&mut self, log: &Records) -> Option<(Stored, u32)> {
        while let Some((sequence, attempts)) = self.again.pop_first() {
            if let Some(stored) = log.stored(sequence) {
                self.held.insert(sequence);
                return Some((stored, attempts + 1));
            }
        }
        let after = (std::ops::Bound::Excluded(self.through), std::ops::Bound::Unbounded);
        let next = log.records.range(after).find(|(_, kept)| self.filter.matches(&kept.subject));
        let sequence = *next?.0;
        self.through = sequence;
        self.held.insert(sequence);
        log.stored(sequence).map(|stored| (stored, 1))
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Result<Delivery, ReadError> {
        loop {
            let changed = self.shared.changed.listen();
            if let Some(delivery) = self.take() {
                return Ok(delivery);
            }
            changed.await;
        }
    }
}

struct MemoryReceipt {
    shared: Arc<Shared>,
    log: Log,
    name: ConsumerName,
    sequence: Sequence,
    attempt: u32,
    is_answered: bool,
}

impl MemoryReceipt {
    fn with_group(&self, change: impl FnOnce(&mut Group)) {
        let mut logs = self.shared.lock();
        if let Some(group) = logs.get_mut(&self.log).and_then(|log| log.groups.get_mut(self.name.0)) {
            change(group);
        }
    }

    fn give_back(&self) {
        self.with_group(|group| {
            group.held.remove(&self.sequence);
            group.again.insert(self.sequence, self.attempt);
        });
        self.shared.changed.notify(usize::MAX);
    }
}

impl Drop for MemoryReceipt {
    fn drop(&mut self) {
        if !self.is_answered {
            self.give_back();
        }
    }
}

#[async_trait]
impl Receipt for MemoryReceipt {
    async fn acknowledge(mut self: Box<Self>) -> Result<(), ReadError> {
        self.is_answered = true;
        self.with_group(|group| {
            group.held.remove(&self.sequence);
        });
        Ok(())
    }

    /// There is no clock in this crate: it is delivered again at once, which a caller with a longer patience may notice.
    async fn retry_after(self: Box<Self>, _delay: Millis) -> Result<(), ReadError> {
        Ok(())
    }

    async fn in_progress(&self) -> Result<(), ReadError> {
        Ok(())
    }
}
