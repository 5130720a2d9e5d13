//! Purging: whole records out, marks in, so that a hole can be told from a loss. Runs on the log's writer.
//!
//! A mark takes the place of a run of purged positions and keeps the chain at their end, so that what follows still proves itself.
//! A purge of everything replaces the log's directory: the files go, the numbering stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use omnirun_events::{Filter, Sequence, Subject};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::cell::{Cell, log_path, next_path};
use crate::committer::Purge;
use crate::database::{Database, DatabaseError, Rows};
use crate::error::{OpenError, StoreError, io_error};
use crate::head::Head;
use crate::layout::{self, First, INDEX_ROWS, Mark, PROGRESS_ROWS};

/// Records that one commit of a purge removes. A purge that is cut off has removed the first ones; calling again removes the others.
const STEP_RECORDS: usize = 1024;

/// Removes what `purge` names and answers how many records that were.
pub(crate) fn run(cell: &Arc<Cell>, head: Head, purge: &Purge) -> Result<u64, StoreError> {
    let doomed = match purge {
        Purge::Through(subject, through) => {
            find(cell, &layout::index_prefix(&format!("{subject}\0")), |_, sequence| sequence <= *through)?
        }
        Purge::All(filter) if *filter == Filter::all() => {
            let count = find(cell, INDEX_ROWS, |_, _| true)?.len();
            if count > 0 {
                start_anew(cell, head)?;
            }
            return Ok(count as u64);
        }
        Purge::All(filter) => {
            let literal = filter.as_str().split(['*', '>']).next().unwrap_or_default();
            find(cell, &layout::index_prefix(literal), |subject, _| filter.takes(subject))?
        }
    };
    for step in doomed.chunks(STEP_RECORDS) {
        let batch = cell.with(|db| db.reading(|tree| removal(tree, step)))?;
        cell.commit(Rows::Whole(batch))?;
    }
    Ok(doomed.len() as u64)
}

/// Subject and position of a record to be removed.
type Doomed = (Subject, Sequence);

/// The records under an index prefix that are wanted, in the order of their positions.
fn find(
    cell: &Cell,
    prefix: &[u8],
    is_wanted: impl Fn(&str, Sequence) -> bool,
) -> Result<Vec<Doomed>, StoreError> {
    let mut found = cell.with(|db| {
        db.reading(|tree| {
            let mut found = Vec::new();
            for key in tree.scan_prefix(prefix).keys() {
                let key = key?;
                let Some((subject, sequence)) = layout::parse_index_key(&key) else { continue };
                if is_wanted(subject, sequence) {
                    let unreadable =
                        |_| StoreError::Damaged(sequence, "the index names no subject".to_owned());
                    found.push((subject.parse().map_err(unreadable)?, sequence));
                }
            }
            Ok(found)
        })
    })?;
    found.sort_unstable_by_key(|(_, sequence)| *sequence);
    Ok(found)
}

/// The batch that removes these records and leaves marks, joined with the marks beside them.
fn removal(tree: &sled::Tree, doomed: &[Doomed]) -> Result<sled::Batch, StoreError> {
    let mut batch = sled::Batch::default();
    let mut marks: Vec<(Sequence, Mark)> = Vec::new();
    for (subject, sequence) in doomed {
        batch.remove(layout::index_key(subject.as_str(), *sequence));
        let mut last = None;
        for row in tree.range(layout::record_key(*sequence, 0)..=layout::record_key(*sequence, u16::MAX)) {
            let (key, value) = row?;
            if let Some(First::Record(header)) =
                layout::parse_first(*sequence, &value).filter(|_| last.is_none())
            {
                last = Some(header.chain);
            }
            batch.remove(key);
        }
        let missing = || StoreError::Damaged(*sequence, "the record is missing".to_owned());
        let mark = Mark { through: *sequence, chain: last.ok_or_else(missing)? };
        match marks.last_mut() {
            Some((_, before)) if before.through.next() == *sequence => *before = mark,
            _ => marks.push((*sequence, mark)),
        }
    }
    join_neighbours(tree, &mut batch, &mut marks)?;
    for (from, mark) in marks {
        batch.insert(&layout::record_key(from, 0), layout::mark_row(from, mark));
    }
    Ok(batch)
}

/// Joins each mark with the stored one that ends right before it and the one that begins right after it.
fn join_neighbours(
    tree: &sled::Tree,
    batch: &mut sled::Batch,
    marks: &mut Vec<(Sequence, Mark)>,
) -> Result<(), StoreError> {
    let mut gone = BTreeSet::new();
    let mut joined: Vec<(Sequence, Mark)> = Vec::new();
    for (mut from, mut mark) in marks.drain(..) {
        match joined.last() {
            // The run before this one has taken in the stored mark between them.
            Some((start, last)) if last.through.next() == from => {
                from = *start;
                joined.pop();
            }
            _ => {
                let before = stored_mark_before(tree, from)?;
                from =
                    before.filter(|(_, mark)| mark.through.next() == from).map_or(from, |(start, _)| start);
            }
        }
        let after = mark.through.next();
        if let Some(row) = tree.get(layout::record_key(after, 0))?
            && let Some(First::Mark(stored)) = layout::parse_first(after, &row)
        {
            mark = stored;
            gone.insert(after);
        }
        joined.push((from, mark));
    }
    for from in gone {
        batch.remove(&layout::record_key(from, 0));
    }
    *marks = joined;
    Ok(())
}

fn stored_mark_before(tree: &sled::Tree, from: Sequence) -> Result<Option<(Sequence, Mark)>, StoreError> {
    let range = layout::record_key(Sequence::NONE, 0)..layout::record_key(from, 0);
    let Some(row) = tree.range(range).next_back() else { return Ok(None) };
    let (key, value) = row?;
    let Some((sequence, 0)) = layout::parse_record_key(&key) else { return Ok(None) };
    Ok(match layout::parse_first(sequence, &value) {
        Some(First::Mark(mark)) => Some((sequence, mark)),
        _ => None,
    })
}

/// Replaces the log's directory by one in which every position through the head is purged. Consumer progress moves along.
///
/// The new directory is made whole under another name, and one rename exchanges the two: a crash leaves one or the other in place, and the
/// next start removes the spare.
fn start_anew(cell: &Arc<Cell>, head: Head) -> Result<(), StoreError> {
    let (path, next) = (log_path(&cell.dir, cell.log), next_path(&cell.dir, cell.log));
    if next.exists() {
        fs::remove_dir_all(&next).map_err(io_error("remove", &next)).map_err(StoreError::Replace)?;
    }
    let database = Database::open(&next, cell.cache).map_err(|error| match error {
        DatabaseError::Io(error) => StoreError::Replace(error),
        DatabaseError::Damaged(text) => StoreError::Panicked(text),
    })?;
    let mut batch = sled::Batch::default();
    let first = Sequence::NONE.next();
    let mark = Mark { through: head.sequence, chain: head.chain };
    batch.insert(&layout::record_key(first, 0), layout::mark_row(first, mark));
    cell.with(|old| {
        old.reading(|tree| {
            for row in tree.scan_prefix(PROGRESS_ROWS) {
                let (key, value) = row?;
                batch.insert(key, value);
            }
            Ok(())
        })
    })?;
    database.commit(Rows::Whole(batch))?;
    database.close()?;
    exchange(&cell.dir, &path, &next).map_err(StoreError::Replace)?;
    // From here on the old files are under the spare name. Whoever reads meanwhile reads them; if the new ones do not open, the log is closed.
    let opened = Database::open(&path, cell.cache).map_err(|error| match error {
        DatabaseError::Io(error) => StoreError::Replace(error),
        DatabaseError::Damaged(text) => StoreError::Panicked(text),
    });
    let (new, failure) = match opened {
        Ok(new) => (Some(new), None),
        Err(error) => (None, Some(error)),
    };
    if let Some(old) = cell.replace(new) {
        old.close()?;
    }
    if let Some(error) = failure {
        return Err(error);
    }
    fs::remove_dir_all(&next).map_err(io_error("remove", &next)).map_err(StoreError::Replace)
}

fn exchange(dir: &Path, path: &Path, next: &Path) -> Result<(), OpenError> {
    renameat_with(CWD, next, CWD, path, RenameFlags::EXCHANGE)
        .map_err(|error| io_error("exchange", path)(error.into()))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}
