//! Competing consumers: what is held, what comes again, what is done. Progress is kept in the log's own tree.
//!
//! An acknowledgement is written without waiting for the disk: after a crash a record may be delivered again, none is lost. A group is kept as
//! a floor (all up to it is done) and the acknowledgements above it, so that one row is written for each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use omnirun_events::log::{Consumer, ConsumerName, Delivery, ReadError, Receipt};
use omnirun_events::{Filter, Millis, Sequence, Stored};
use tokio::time::Instant;

use crate::cell::Cell;
use crate::error::StoreError;
use crate::layout;
use crate::read::{self, read_error};

/// Progress of one group.
pub(crate) struct Group {
    filter: Filter,
    /// Everything up to here that the filter takes is acknowledged.
    floor: Sequence,
    /// Everything up to here is acknowledged or in one of the collections below.
    through: Sequence,
    /// Acknowledged, above the floor.
    done: BTreeSet<Sequence>,
    /// Held by a member.
    held: BTreeSet<Sequence>,
    /// To be delivered again, with how often it was delivered.
    again: BTreeMap<Sequence, u32>,
    /// To be delivered again at a later moment.
    later: BTreeMap<(Instant, Sequence), u32>,
}

/// What a group has for a member.
enum Taken {
    Record(Stored, u32),
    /// It has looked at some records and is not done.
    More,
    /// Nothing until something changes, or until this moment.
    Nothing(Option<Instant>),
}

impl Group {
    /// The group as it was kept, or a new one with this filter, which is kept from now on.
    fn load(cell: &Cell, name: &str, filter: Filter) -> Result<Self, StoreError> {
        let (kept, done) = cell.with(|db| {
            db.reading(|tree| {
                let prefix = layout::acknowledged_prefix(name);
                let mut done = BTreeSet::new();
                for key in tree.scan_prefix(&prefix).keys() {
                    let key = key?;
                    let sequence = key.get(prefix.len()..).and_then(|bytes| bytes.try_into().ok());
                    done.extend(sequence.map(|bytes| Sequence(u64::from_be_bytes(bytes))));
                }
                Ok((tree.get(layout::floor_key(name))?, done))
            })
        })?;
        let kept = kept.as_deref().and_then(layout::parse_floor);
        let kept = kept.map(|(floor, text)| (floor, Filter::from_text(text)));
        if kept.is_none() {
            let mut batch = sled::Batch::default();
            batch.insert(layout::floor_key(name), layout::floor_value(Sequence::NONE, filter.as_str()));
            cell.apply(batch)?;
        }
        let (floor, filter) = kept.unwrap_or((Sequence::NONE, filter));
        let (held, again, later) = Default::default();
        Ok(Self { filter, floor, through: floor, done, held, again, later })
    }

    fn take(&mut self, cell: &Cell) -> Result<Taken, StoreError> {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, sequence), attempts) = entry.remove_entry();
            self.again.insert(sequence, attempts);
        }
        while let Some((sequence, attempts)) = self.again.pop_first() {
            // One that was purged meanwhile is done.
            if let Some(stored) = cell.with(|db| db.reading(|tree| read::fetch(tree, sequence)))? {
                self.held.insert(sequence);
                return Ok(Taken::Record(stored, attempts.saturating_add(1)));
            }
        }
        let found = read::step(cell, &self.filter, self.through, 1)?;
        self.through = found.through;
        match found.records.into_iter().next() {
            Some(stored) if self.done.contains(&stored.sequence) => Ok(Taken::More),
            Some(stored) => {
                self.held.insert(stored.sequence);
                Ok(Taken::Record(stored, 1))
            }
            None if found.is_end => Ok(Taken::Nothing(self.later.keys().next().map(|(at, _)| *at))),
            None => Ok(Taken::More),
        }
    }

    /// Notes that a record is done, and keeps it.
    fn acknowledge(&mut self, cell: &Cell, name: &str, sequence: Sequence) -> Result<(), StoreError> {
        self.held.remove(&sequence);
        self.done.insert(sequence);
        let open = self.held.first().copied().into_iter().chain(self.again.keys().next().copied());
        let open = open.chain(self.later.keys().map(|(_, sequence)| *sequence)).min();
        let floor = open.map_or(self.through, |open| Sequence(open.0 - 1)).max(self.floor);
        let mut batch = sled::Batch::default();
        if floor > self.floor {
            batch.insert(layout::floor_key(name), layout::floor_value(floor, self.filter.as_str()));
            let above = self.done.split_off(&floor.next());
            for done in std::mem::replace(&mut self.done, above) {
                batch.remove(layout::acknowledged_key(name, done));
            }
            self.floor = floor;
        }
        if sequence > floor {
            batch.insert(layout::acknowledged_key(name, sequence), &[]);
        }
        cell.apply(batch)
    }
}

/// A member of a group.
pub(crate) struct SledConsumer {
    cell: Arc<Cell>,
    name: ConsumerName,
}

impl SledConsumer {
    /// Joins a group; the first to join since the log was opened reads its progress.
    pub fn join(cell: Arc<Cell>, filter: Filter, name: ConsumerName) -> Result<Self, ReadError> {
        let mut groups = cell.groups();
        if !groups.contains_key(name.0) {
            let group = Group::load(&cell, name.0, filter).map_err(|error| read_error(cell.log, error))?;
            groups.insert(name.0, group);
        }
        drop(groups);
        Ok(Self { cell, name })
    }

    fn take(&self) -> Result<Taken, StoreError> {
        let mut groups = self.cell.groups();
        let group = groups.get_mut(self.name.0).expect("this member's joining has put it there");
        group.take(&self.cell)
    }

    fn delivery(&self, stored: Stored, attempt: u32) -> Delivery {
        let receipt = SledReceipt {
            cell: self.cell.clone(),
            name: self.name.clone(),
            sequence: stored.sequence,
            attempt,
            is_answered: false,
        };
        Delivery { stored, attempt, receipt: Box::new(receipt) }
    }
}

#[async_trait]
impl Consumer for SledConsumer {
    async fn next(&mut self) -> Result<Delivery, ReadError> {
        loop {
            let mut changes = self.cell.changes();
            let taken = self.take().map_err(|error| read_error(self.cell.log, error))?;
            match taken {
                Taken::Record(stored, attempt) => return Ok(self.delivery(stored, attempt)),
                Taken::More => tokio::task::yield_now().await,
                Taken::Nothing(None) => {
                    // The sender lives in the cell that this member holds.
                    let _ = changes.changed().await;
                }
                Taken::Nothing(Some(due)) => {
                    // Either way there is something to look at.
                    let _ = tokio::time::timeout_at(due, changes.changed()).await;
                }
            }
            self.cell.with(|_| Ok(())).map_err(|error| read_error(self.cell.log, error))?;
        }
    }
}

struct SledReceipt {
    cell: Arc<Cell>,
    name: ConsumerName,
    sequence: Sequence,
    attempt: u32,
    is_answered: bool,
}

impl SledReceipt {
    fn with_group<T>(&self, change: impl FnOnce(&mut Group) -> T) -> T {
        let mut groups = self.cell.groups();
        change(groups.get_mut(self.name.0).expect("a delivery comes from a group that was joined"))
    }
}

impl Drop for SledReceipt {
    fn drop(&mut self) {
        if !self.is_answered {
            self.with_group(|group| {
                group.held.remove(&self.sequence);
                group.again.insert(self.sequence, self.attempt);
            });
            self.cell.tick();
        }
    }
}

#[async_trait]
impl Receipt for SledReceipt {
    async fn acknowledge(mut self: Box<Self>) -> Result<(), ReadError> {
        self.is_answered = true;
        let done = self.with_group(|group| group.acknowledge(&self.cell, self.name.0, self.sequence));
        done.map_err(|error| read_error(self.cell.log, error))
    }

    async fn retry_after(mut self: Box<Self>, delay: Millis) -> Result<(), ReadError> {
        self.is_answered = true;
        let now = Instant::now();
        // A delay beyond what the clock can say is as good as a day.
        let due =
            now.checked_add(delay.as_duration()).unwrap_or(now + std::time::Duration::from_secs(86_400));
        self.with_group(|group| {
            group.held.remove(&self.sequence);
            group.later.insert((due, self.sequence), self.attempt);
        });
        self.cell.tick();
        Ok(())
    }

    /// A delivery is held until it is answered or dropped, however long that takes: there is no time to start anew.
    async fn in_progress(&self) -> Result<(), ReadError> {
        Ok(())
    }
}
