//! kill -9 of a process that appends under load: every acknowledged record is there, whole batches only, none twice.
//!
//! The child is this test binary again, run for one test with a directory in its environment. It prints each acknowledgement to a pipe.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use omnirun_events::log::{Append, Batch, read_to_end};
use omnirun_events::{Filter, Log, Sequence};
use omnirun_sled::SledLog;

use super::common::*;

const CHILD_DIR: &str = "OMNIRUN_SLED_FAULTS_CHILD_DIR";
const CHILD_ROUND: &str = "OMNIRUN_SLED_FAULTS_CHILD_ROUND";
const ROUNDS: u64 = 12;
const WRITERS: u8 = 24;

/// Not a test of its own: the process that [`every_acknowledged_record_survives_kill_9`] kills.
#[test]
fn child_that_appends_until_it_is_killed() {
    let (Ok(dir), Ok(round)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_ROUND)) else { return };
    let round: u64 = round.parse().expect("the parent wrote it");
    let log = Arc::new(open(Path::new(&dir)));
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    runtime.block_on(async {
        let writers: Vec<_> = (0..WRITERS).map(|n| tokio::spawn(write(log.clone(), n, round))).collect();
        for writer in writers {
            writer.await.expect("a writer runs until the process is killed");
        }
    });
}

/// Appends pairs on two subjects of its own, with the same label in both records, and prints the label once it is acknowledged.
async fn write(log: Arc<SledLog>, writer: u8, round: u64) {
    let subjects = [subject(2 * writer), subject(2 * writer + 1)];
    let mut last = [Sequence::NONE; 2];
    for (at, subject) in last.iter_mut().zip(&subjects) {
        let found = omnirun_events::log::Read::last(&*log, subject).await.expect("up");
        *at = found.map(|stored| stored.sequence).unwrap_or_default();
    }
    for n in 0.. {
        let label = format!("{round}/{writer}/{n}");
        let mut record = format!("{label} ").into_bytes();
        // Some records take several rows.
        record.resize(if n % 17 == 3 { 9000 } else { 200 }, b'.');
        let id = (round as usize) << 32 | n;
        let entries = (0..2).map(|i| entry(subjects[i].clone(), last[i], id, record.clone()));
        let batch = Batch::new(entries.collect()).expect("two subjects of one log");
        let answer = log.append_all(batch).await.expect("the disk works");
        last = [answer[0], answer[1]];
        let mut out = std::io::stdout().lock();
        // One write, so that a line is whole or not there.
        out.write_all(format!("ack {label} {} {}\n", answer[0], answer[1]).as_bytes())
            .expect("the parent reads");
        out.flush().expect("the parent reads");
    }
}

/// Runs the child until it has acknowledged `acks` appends, kills it, and answers every acknowledgement that it sent.
fn run_and_kill(dir: &Path, round: u64, acks: u64) -> Vec<(String, u64, u64)> {
    let test = "kill::child_that_appends_until_it_is_killed";
    let mut child = Command::new(std::env::current_exe().expect("this test binary"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut seen = Vec::new();
    let mut is_killed = false;
    // After the kill, what is still in the pipe was acknowledged too.
    for line in &mut lines {
        let line = line.expect("it is text");
        let Some((_, line)) = line.split_once("ack ") else { continue };
        let words: Vec<&str> = line.split(' ').collect();
        if let [label, first, second] = words[..] {
            let number = |text: &str| text.parse().expect("the child prints numbers");
            seen.push((label.to_owned(), number(first), number(second)));
        }
        if !is_killed && seen.len() as u64 >= acks {
            child.kill().expect("it is ours");
            is_killed = true;
        }
    }
    child.wait().expect("it is ours");
    assert!(is_killed, "the child ended by itself after {} acknowledgements", seen.len());
    seen
}

#[tokio::test]
async fn every_acknowledged_record_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut dice = Dice::new(2024);
    let mut acknowledged: HashMap<String, (u64, u64)> = HashMap::new();
    for round in 0..ROUNDS {
        for (label, first, second) in run_and_kill(dir.path(), round, 1 + dice.below(1500)) {
            acknowledged.insert(label, (first, second));
        }
        let log = open(dir.path());
        let all = read_to_end(&log, Log::Events, Filter::all(), Sequence::NONE).await.expect("up");
        let mut stored: HashMap<String, Vec<u64>> = HashMap::new();
        for record in &all {
            let text = String::from_utf8_lossy(&record.record);
            let label = text.split(' ').next().expect("it begins with its label").to_owned();
            stored.entry(label).or_default().push(record.sequence.0);
        }
        for (label, positions) in &stored {
            assert_eq!(positions.len(), 2, "round {round}: {label} is not one whole batch: {positions:?}");
        }
        for (label, (first, second)) in &acknowledged {
            let expected = vec![*first.min(second), *first.max(second)];
            assert_eq!(stored.get(label), Some(&expected), "round {round}: {label} was acknowledged");
        }
        let unique: HashSet<_> = all.iter().map(|record| record.sequence).collect();
        assert_eq!(unique.len(), all.len(), "no position is used twice");
    }
    assert!(acknowledged.len() as u64 > 20 * ROUNDS, "only {} acknowledgements", acknowledged.len());
    println!("{} acknowledged batches over {ROUNDS} kills, all there", acknowledged.len());
}
