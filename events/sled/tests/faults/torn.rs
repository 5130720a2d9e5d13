//! A power cut in the middle of a group: any subset of the pages that it writes gives the state before it or the one after it.
//!
//! What can be on the disk then: the database with any of the group's 4 KiB pages, in any order, and its new length or the old one;
//! and the OLD head, since the head is written only after fdatasync has returned. Once it has, every page is there, with the new head or
//! the old one. The new head beside a torn database cannot happen, and is tested in `damage`: it is refused.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use omnirun_events::log::{Append, BATCH_ENTRIES_MAX, Batch, Read, read_to_end};
use omnirun_events::{Filter, Log, Sequence};
use omnirun_sled::SledLog;

use super::common::*;

const PAGE: usize = 4096;
const GROUPS: u64 = 14;
const SUBSETS: u64 = 24;

/// The records of a directory that must open.
async fn contents(dir: &Path) -> Vec<(u64, Vec<u8>)> {
    let log = open(dir);
    let all = read_to_end(&log, Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
    all.into_iter().map(|stored| (stored.sequence.0, stored.record.to_vec())).collect()
}

/// Appends one batch over several subjects, some records of several rows: one commit.
async fn append_group(log: &SledLog, group: u64, dice: &mut Dice) {
    let mut entries = Vec::new();
    for n in 0..1 + dice.below(BATCH_ENTRIES_MAX as u64) {
        let size = if dice.below(6) == 0 { 12_000 } else { 10 + dice.below(700) as usize };
        let subject = subject(n as u8);
        let last = log.last(&subject).await.expect("up");
        let expected = last.map(|stored| stored.sequence).unwrap_or_default();
        entries.push(entry(subject, expected, group as usize, vec![group as u8; size]));
    }
    log.append_all(Batch::new(entries).expect("different subjects of one log")).await.expect("up");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_subset_of_a_groups_pages_gives_the_old_or_the_new_state() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (live, before, trial) =
        (work.path().join("live"), work.path().join("before"), work.path().join("trial"));
    let mut dice = Dice::new(7);
    let (mut old_seen, mut new_seen) = (0, 0);
    let log = open(&live);
    append_group(&log, 0, &mut dice).await;
    for group in 1..=GROUPS {
        let _ = fs::remove_dir_all(&before);
        copy_dir(&live, &before);
        append_group(&log, group, &mut dice).await;
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
                _ => panic!(
                    "group {group}, subset {subset}: {} records, neither the {} before nor the {} after",
                    found.len(),
                    old_records.len(),
                    new_records.len()
                ),
            }
            if subset == 0 {
                assert_eq!(found, new_records, "everything was written");
            }
        }
    }
    println!("{old_seen} times the old state, {new_seen} times the new one");
    assert!(old_seen > 50 && new_seen > 10, "both outcomes were seen: {old_seen} and {new_seen}");
}

/// What a copy of a directory holds; opening the original would change it.
async fn contents_of_copy(dir: &Path, trial: &Path) -> Vec<(u64, Vec<u8>)> {
    let _ = fs::remove_dir_all(trial);
    copy_dir(dir, trial);
    contents(trial).await
}
