//! Cut and flipped acknowledged data: the log is refused with its first bad position, or served whole. Never a shorter one.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use omnirun_events::log::{Append, Read, read_to_end};
use omnirun_events::{Filter, Log, Sequence};
use omnirun_sled::{OpenError, SledLog};

use super::common::*;

const RECORDS: usize = 3000;
const CUTS: [u64; 12] = [1, 7, 40, 100, 777, 4096, 5000, 40_000, 131_072, 524_288, 700_000, 1_048_576];
const FLIPS: u64 = 60;

/// What came of opening a damaged copy.
#[derive(Default, Debug)]
struct Tally {
    refused_at_a_record: usize,
    refused_whole: usize,
    refused_by_head: usize,
    served_whole: usize,
}

type Records = Vec<(u64, Vec<u8>)>;

async fn records_of(log: &SledLog) -> Records {
    let all = read_to_end(log, Log::Events, Filter::all(), Sequence::NONE).await.expect("it was checked");
    all.into_iter().map(|stored| (stored.sequence.0, stored.record.to_vec())).collect()
}

/// Writes a log, closes it, and answers its directory and records.
async fn written(work: &Path) -> (PathBuf, Records) {
    let dir = work.join("whole");
    let log = open(&dir);
    let mut lasts = [Sequence::NONE; 50];
    for n in 0..RECORDS {
        let which = n % lasts.len();
        let size = 100 + n % 900;
        let batch = one(subject(which as u8), lasts[which], n, vec![(n % 251) as u8; size]);
        lasts[which] = log.append_all(batch).await.expect("up")[0];
    }
    let records = records_of(&log).await;
    log.close().expect("the disk works");
    (dir, records)
}

/// Opens a copy of `whole` with `damage` done to it, twice, and tallies; anything but "refused" or "whole" fails.
async fn attempt(
    whole: &Path,
    expected: &Records,
    what: &str,
    tally: &mut Tally,
    damage: impl FnOnce(&Path),
) {
    let trial = tempfile::tempdir().expect("a temporary directory");
    copy_dir(whole, trial.path());
    damage(trial.path());
    let mut was_refused = false;
    // The second time sled has already repaired what it took for a torn end: the refusal must stay.
    for time in 0..2 {
        match SledLog::open(trial.path(), options()) {
            Ok(log) => {
                assert!(!was_refused, "{what}: refused first, served later");
                assert_eq!(records_of(&log).await.len(), expected.len(), "{what}: a shorter log was served");
                assert!(records_of(&log).await == *expected, "{what}: other records were served");
                assert_eq!(log.head(Log::Events).await.expect("up").0, expected.len() as u64, "{what}");
                tally.served_whole += usize::from(time == 0);
            }
            Err(error) => {
                was_refused = true;
                let text = error.to_string();
                match error {
                    OpenError::Damaged { at, .. } => {
                        let named = format!("damaged at position {}:", at.sequence);
                        assert!(text.contains(&named), "{what}: {text}");
                        assert!((1..=expected.len() as u64).contains(&at.sequence.0), "{what}: {text}");
                        match text.contains("does not open") {
                            true => tally.refused_whole += usize::from(time == 0),
                            false => tally.refused_at_a_record += usize::from(time == 0),
                        }
                    }
                    OpenError::Head { .. } => tally.refused_by_head += usize::from(time == 0),
                    other => panic!("{what}: {other:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_cut_log_is_refused_or_whole() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (whole, expected) = written(work.path()).await;
    let mut tally = Tally::default();
    for cut in CUTS {
        attempt(&whole, &expected, &format!("cut {cut}"), &mut tally, |dir| {
            let db = fs::File::options().write(true).open(dir.join("EVENTS/db")).expect("it was copied");
            let length = db.metadata().expect("it is there").len();
            db.set_len(length.saturating_sub(cut)).expect("it is ours");
        })
        .await;
    }
    println!("cuts: {tally:?}");
    let refused = tally.refused_at_a_record + tally.refused_whole;
    assert!(refused >= 6, "most cuts take acknowledged data: {tally:?}");
    assert!(tally.refused_at_a_record >= 2, "some are pinned to a record: {tally:?}");
}

#[tokio::test]
async fn a_log_with_flipped_bits_is_refused_or_whole() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (whole, expected) = written(work.path()).await;
    let mut tally = Tally::default();
    let mut dice = Dice::new(99);
    let length = fs::metadata(whole.join("EVENTS/db")).expect("it is there").len();
    for flip in 0..FLIPS {
        // A few near the beginning, where sled keeps what everything hangs on; the others anywhere.
        let offset = if flip < 6 { flip * 20 } else { dice.below(length) };
        let bit = 1 << dice.below(8);
        attempt(&whole, &expected, &format!("bit {bit} at {offset}"), &mut tally, |dir| {
            let db = fs::File::options().read(true).write(true).open(dir.join("EVENTS/db"));
            let db = db.expect("it was copied");
            let mut byte = [0];
            db.read_exact_at(&mut byte, offset).expect("it is inside");
            db.write_all_at(&[byte[0] ^ bit], offset).expect("it is inside");
        })
        .await;
    }
    println!("flips: {tally:?}");
    let refused = tally.refused_at_a_record + tally.refused_whole;
    assert!(refused >= 10, "many bits matter: {tally:?}");
}

#[tokio::test]
async fn a_lost_last_flush_below_an_acknowledged_head_is_refused_at_its_first_record() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (whole, expected) = written(work.path()).await;
    let mut tally = Tally::default();
    attempt(&whole, &expected, "no last flush", &mut tally, |dir| {
        // The pages of the last records are lost, the head that was written after them is not.
        let db = fs::read(dir.join("EVENTS/db")).expect("it was copied");
        let end = db.iter().rposition(|byte| *byte != 0 && *byte != 0xff).unwrap_or(db.len());
        let file = fs::File::options().write(true).open(dir.join("EVENTS/db")).expect("it was copied");
        file.set_len(end as u64 - 2000).expect("it is ours");
    })
    .await;
    assert_eq!(tally.refused_at_a_record, 1, "{tally:?}");
}

#[tokio::test]
async fn a_damaged_head_file_is_refused_or_makes_no_difference() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (whole, expected) = written(work.path()).await;
    let mut tally = Tally::default();
    for offsets in [vec![9], vec![4096 + 9], vec![9, 4096 + 9]] {
        attempt(&whole, &expected, &format!("head at {offsets:?}"), &mut tally, |dir| {
            let head = fs::File::options().write(true).open(dir.join("head-EVENTS")).expect("it was copied");
            for offset in &offsets {
                head.write_all_at(&[0xaa], *offset).expect("it is inside");
            }
        })
        .await;
    }
    assert_eq!((tally.served_whole, tally.refused_by_head), (2, 1), "{tally:?}");
}
