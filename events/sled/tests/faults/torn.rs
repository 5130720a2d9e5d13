//! A power cut in the middle of a group: any subset of the pages that it writes gives the state before it or the one after it; when several
//! appends share the group, the state after the first ones of them is possible too. None of them was acknowledged.
//!
//! What can be on the disk then: the database with any of the group's 4 KiB pages, in any order, and its new length or the old one;
//! and the OLD head, since the head is written only after fdatasync has returned. Once it has, every page is there, with the new head or
//! the old one. The new head beside a torn database cannot happen, and is tested in `damage`: it is refused.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use futures_util::future::try_join_all;
use omnirun_events::log::{Append, BATCH_ENTRIES_MAX, Batch, Read, read_to_end};
use omnirun_events::{Filter, Log, Sequence};
use omnirun_sled::SledLog;

use super::common::*;

const PAGE: usize = 4096;
const GROUPS: u64 = 14;
const SUBSETS: u64 = 24;

/// The records of a directory that must open, and whose index must know every one of them.
async fn contents(dir: &Path) -> Vec<(u64, Vec<u8>)> {
    let log = open(dir);
    let all = read_to_end(&log, Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    let mut indexed = 0;
    for n in 0..BATCH_ENTRIES_MAX as u8 {
        let of_one = read_to_end(&log, Log::Events, Filter::exactly(&subject(n)), Sequence::NONE).await;
        indexed += of_one.expect("up").len();
    }
    assert_eq!(indexed, all.len(), "the index knows every record");
    all.into_iter().map(|stored| (stored.sequence.0, stored.record.to_vec())).collect()
}

/// How a group comes to be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// One batch over several subjects, some records of several rows: after a tear, all or nothing.
    OneBatch,
    /// Several writers with a small record each: after a tear, the first ones up to some point.
    ManyWriters,
}

async fn append_group(log: &SledLog, kind: Kind, group: u64, dice: &mut Dice) {
    let mut entries = Vec::new();
    for n in 0..1 + dice.below(BATCH_ENTRIES_MAX as u64) {
        let is_long = matches!(kind, Kind::OneBatch) && dice.below(6) == 0;
        let size = if is_long { 12_000 } else { 10 + dice.below(700) as usize };
        let subject = subject(n as u8);
        let last = log.last(&subject).await.expect("up");
        let expected = last.map(|stored| stored.sequence).unwrap_or_default();
        entries.push(entry(subject, expected, group as usize, vec![group as u8; size]));
    }
    match kind {
        Kind::OneBatch => {
            let batch = Batch::new(entries).expect("different subjects of one log");
            log.append_all(batch).await.expect("up");
        }
        Kind::ManyWriters => {
            let appends = entries.into_iter().map(|entry| log.append_all(Batch::one(entry)));
            try_join_all(appends).await.expect("up");
        }
    }
}

/// Pages in which two images differ, and the new image's length.
fn changed_pages(old: &[u8], new: &[u8]) -> Vec<usize> {
    let page = |image: &[u8], n: usize| image.chunks(PAGE).nth(n).map(<[u8]>::to_vec);
    let count = new.len().div_ceil(PAGE);
    let mut changed = Vec::new();
    for n in 0..count {
        if page(old, n) != page(new, n) {
            changed.push(n);
        }
    }
    changed
}

#[tokio::test]
async fn any_subset_of_a_batchs_pages_gives_the_old_or_the_new_state() {
    let (old, new, between) = tear(Kind::OneBatch).await;
    println!("one batch: {old} times the old state, {new} times the new one");
    assert!(old > 50 && new > 10, "both outcomes were seen: {old} and {new}");
    assert_eq!(between, 0, "a batch is whole or not there");
}

#[tokio::test]
async fn any_subset_of_the_pages_of_several_appends_keeps_the_first_ones() {
    let (old, new, between) = tear(Kind::ManyWriters).await;
    println!("many writers: {old} times the old state, {new} times the new one, {between} times a beginning");
    assert!(old > 50 && new > 10, "both outcomes were seen: {old} and {new}");
}

/// Tears groups of a kind; answers how often the old state was found, the new one, and a beginning of the new one.
async fn tear(kind: Kind) -> (u64, u64, u64) {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (live, before, trial) =
        (work.path().join("live"), work.path().join("before"), work.path().join("trial"));
    let mut dice = Dice::new(7);
    let (mut old_seen, mut new_seen, mut between) = (0, 0, 0);
    let log = open(&live);
    append_group(&log, kind, 0, &mut dice).await;
    for group in 1..=GROUPS {
        let _ = fs::remove_dir_all(&before);
        copy_dir(&live, &before);
        append_group(&log, kind, group, &mut dice).await;
        let old = fs::read(before.join("EVENTS/db")).expect("it was copied");
        let new = fs::read(live.join("EVENTS/db")).expect("it is there");
        let old_records = contents_of_copy(&before, &trial).await;
        let new_records = contents_of_copy(&live, &trial).await;
        assert!(new_records.len() > old_records.len());
        let changed = changed_pages(&old, &new);
        for subset in 0..SUBSETS {
            let _ = fs::remove_dir_all(&trial);
            copy_dir(&before, &trial);
            let db = fs::File::options().write(true).open(trial.join("EVENTS/db")).expect("it was copied");
            if new.len() > old.len() && dice.below(2) == 0 {
                db.set_len(new.len() as u64).expect("there is space");
            }
            for n in &changed {
                // The first subset is everything: durable data with the head still unwritten.
                if subset == 0 || dice.below(2) == 0 {
                    let end = ((n + 1) * PAGE).min(new.len());
                    db.write_all_at(&new[n * PAGE..end], (n * PAGE) as u64).expect("there is space");
                }
            }
            let found = contents(&trial).await;
            match &found {
                found if *found == old_records => old_seen += 1,
                found if *found == new_records => new_seen += 1,
                found => {
                    let is_beginning = new_records.starts_with(found) && found.starts_with(&old_records);
                    assert!(
                        is_beginning,
                        "{kind:?} {group}, subset {subset}: acknowledged records lost or mixed up"
                    );
                    between += 1;
                }
            }
            if subset == 0 {
                assert_eq!(found, new_records, "everything was written");
            }
        }
    }
    (old_seen, new_seen, between)
}

/// What a copy of a directory holds; opening the original would change it.
async fn contents_of_copy(dir: &Path, trial: &Path) -> Vec<(u64, Vec<u8>)> {
    let _ = fs::remove_dir_all(trial);
    copy_dir(dir, trial);
    contents(trial).await
}
