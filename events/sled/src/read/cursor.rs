//! Cursors: pages over a log. A narrow filter starts from the subject index and goes on by scanning; a wide one scans.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use omnirun_events::log::{Cursor, PAGE_RECORDS_MAX, Page, ReadError, Tail};
use omnirun_events::{Filter, Sequence, Stored};

use super::{PAGE_BYTES_MAX, STEP_ROWS, fetch, read_error, step};
use crate::cell::Cell;
use crate::error::StoreError;
use crate::layout;

/// A place in a log.
pub(crate) struct SledCursor {
    cell: Arc<Cell>,
    filter: Filter,
    after: Sequence,
    backlog: Option<Backlog>,
}

/// What the index knew when the cursor was made, still to be handed out.
struct Backlog {
    sequences: VecDeque<Sequence>,
    /// The acknowledged position then: up to here the index tells it all.
    through: Sequence,
}

/// The literal beginning of a filter when it is narrow enough for the index to help: all of an exact one, else at least the account, host or
/// sandbox that it names. Such a filter takes few records of a long log.
fn narrow_prefix(filter: &Filter) -> Option<Vec<u8>> {
    let tokens: Vec<&str> = filter.as_str().split('.').collect();
    let literal: Vec<&str> =
        tokens.iter().copied().take_while(|token| !matches!(*token, "*" | ">")).collect();
    let text = match literal.len() {
        all if all == tokens.len() => format!("{}\0", filter.as_str()),
        0 | 1 => return None,
        _ => format!("{}.", literal.join(".")),
    };
    Some(layout::index_prefix(&text))
}

impl SledCursor {
    /// A cursor after `after`. The index takes 8 bytes of memory for each record that a narrow filter finds.
    pub async fn new(cell: Arc<Cell>, filter: Filter, after: Sequence) -> Result<Self, ReadError> {
        let backlog = match narrow_prefix(&filter) {
            None => None,
            Some(prefix) => {
                let found = look_up(&cell, &prefix, after).await;
                Some(found.map_err(|error| read_error(cell.log, error))?)
            }
        };
        Ok(Self { cell, filter, after, backlog })
    }

    async fn page(&mut self, limit: usize) -> Result<Page, StoreError> {
        if let Some(backlog) = &mut self.backlog {
            let records = drain(&self.cell, &self.filter, backlog, limit.min(STEP_ROWS))?;
            if let Some(last) = records.last() {
                self.after = last.sequence;
                return Ok(Page { records, through: self.after });
            }
            self.after = self.after.max(backlog.through);
            self.backlog = None;
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut after = self.after;
        loop {
            let found = step(&self.cell, &self.filter, after, limit - records.len())?;
            after = found.through;
            bytes += found.records.iter().map(|stored| stored.record.len()).sum::<usize>();
            records.extend(found.records);
            if found.is_end || records.len() >= limit || bytes >= PAGE_BYTES_MAX {
                break;
            }
            if records.is_empty() {
                // Nothing is in hand, so a dropped future loses nothing when the way so far is remembered.
                self.after = after;
            }
            tokio::task::yield_now().await;
        }
        self.after = after;
        Ok(Page { records, through: after })
    }
}

async fn look_up(cell: &Cell, prefix: &[u8], after: Sequence) -> Result<Backlog, StoreError> {
    let through = cell.committed();
    let mut found = Vec::new();
    let mut from = prefix.to_vec();
    loop {
        let keys = cell.with(|db| {
            db.reading(|tree| {
                let keys = tree.range(from.clone()..).keys().take(STEP_ROWS);
                Ok(keys.collect::<Result<Vec<_>, _>>()?)
            })
        })?;
        let ours = keys.iter().take_while(|key| key.starts_with(prefix));
        let sequences: Vec<_> = ours.map(|key| layout::parse_index_key(key)).collect();
        let is_end = sequences.len() < STEP_ROWS;
        let sequences = sequences.into_iter().flatten().map(|(_, sequence)| sequence);
        found.extend(sequences.filter(|sequence| *sequence > after && *sequence <= through));
        if is_end {
            break;
        }
        from = keys.last().map(|key| [key.as_ref(), &[0]].concat()).unwrap_or_default();
        tokio::task::yield_now().await;
    }
    found.sort_unstable();
    Ok(Backlog { sequences: found.into(), through })
}

/// The next records of the backlog; none when it is used up. Those that were purged meanwhile are left out.
fn drain(
    cell: &Cell,
    filter: &Filter,
    backlog: &mut Backlog,
    limit: usize,
) -> Result<Vec<Stored>, StoreError> {
    let mut records = Vec::new();
    let mut bytes = 0;
    while records.len() < limit && bytes < PAGE_BYTES_MAX {
        let Some(sequence) = backlog.sequences.front().copied() else { break };
        let stored = cell.with(|db| db.reading(|tree| fetch(tree, sequence)))?;
        backlog.sequences.pop_front();
        if let Some(stored) = stored.filter(|stored| filter.matches(&stored.subject)) {
            bytes += stored.record.len();
            records.push(stored);
        }
    }
    Ok(records)
}

#[async_trait]
impl Cursor for SledCursor {
    async fn next(&mut self, limit: usize, tail: Tail) -> Result<Page, ReadError> {
        let limit = limit.clamp(1, PAGE_RECORDS_MAX);
        loop {
            let mut changes = self.cell.changes();
            let page = self.page(limit).await.map_err(|error| read_error(self.cell.log, error))?;
            if !page.records.is_empty() || tail == Tail::Return {
                return Ok(page);
            }
            // The sender lives in the cell that this cursor holds.
            let _ = changes.changed().await;
            if let Err(error) = self.cell.with(|_| Ok(())) {
                return Err(read_error(self.cell.log, error));
            }
        }
    }
}
