//! `omnirun ops verify`: every kept record, checked from nothing but the root key's fingerprint.
//!
//! How far each log is checked is fixed first, EVENTS last, so that what is appended meanwhile changes nothing: a meter whose claim comes
//! too late to be read would look like a stranger's.
//!
//! Tombstones are read before anything else: a position of EVENTS without a record is good if one names it, and a fault if none does.

use std::collections::BTreeMap;
use std::io::Write;

use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::Digest;
use omnirun_events::log::{PAGE_RECORDS_MAX, Position, Read, ReadError, Sequence, Stored, Tail};
use omnirun_events::subject::{Filter, Log};
use omnirun_events::unit::{Clock, Millis};
use omnirun_events::verify::{Depth, Fault, Ignored, TombstonesError, Verdict, Verifier, tombstones};
use serde_json::json;

use crate::dispatch::Form;
use crate::exit::Exit;
use crate::text;

/// Ignored records that are listed one by one; all are counted.
const LISTED_MAX: usize = 1000;

/// What was found in one log.
#[derive(Debug, Default)]
struct Counts {
    through: Sequence,
    believed: u64,
    ignored: u64,
    /// Positions without a record, or with one that a tombstone has taken.
    holes: u64,
    /// Records that came too late for an account that was erased.
    late: u64,
}

/// A record that is well made and says what its key may not say.
#[derive(Debug)]
struct IgnoredRecord {
    at: Position,
    subject: String,
    why: String,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Report {
    root: Digest,
    logs: BTreeMap<Log, Counts>,
    ignored: Vec<IgnoredRecord>,
    fault: Option<(Position, String)>,
    took: Millis,
}

/// Checks everything, up to the first fault. An error means that the store could not be reached: nothing is known then.
pub(crate) async fn run(read: &dyn Read, root: &Digest, clock: &Clock) -> anyhow::Result<Report> {
    let began = clock();
    let mut verifier = Verifier::new(KeyRing::rooted_in(root)?);
    let mut report =
        Report { root: *root, logs: BTreeMap::new(), ignored: Vec::new(), fault: None, took: Millis::ZERO };
    let mut ends = BTreeMap::new();
    let kept: Vec<Log> = Log::kept().collect();
    for log in kept.iter().rev() {
        ends.insert(*log, read.head(*log).await?);
    }
    if !report.learn(read, &mut verifier).await? {
        report.took = clock().since(began);
        return Ok(report);
    }
    for log in kept {
        let end = ends.get(&log).copied().unwrap_or_default();
        report.check(read, &mut verifier, log, end).await?;
        if report.fault.is_some() {
            break;
        }
    }
    report.took = clock().since(began);
    Ok(report)
}

impl Report {
    async fn check(
        &mut self,
        read: &dyn Read,
        verifier: &mut Verifier,
        log: Log,
        end: Sequence,
    ) -> anyhow::Result<()> {
        self.logs.insert(log, Counts::default());
        let mut cursor = match read.read(log, Filter::all(), Sequence::NONE).await {
            Ok(cursor) => cursor,
            Err(error) => return self.damaged(error),
        };
        let mut last = Sequence::NONE;
        while last < end {
            let page = match cursor.next(PAGE_RECORDS_MAX, Tail::Return).await {
                Ok(page) => page,
                Err(error) => return self.damaged(error),
            };
            for stored in &page.records {
                if stored.sequence > end || !self.take(read, verifier, log, last, stored).await? {
                    break;
                }
                last = stored.sequence;
            }
            let is_past = page.records.last().is_none_or(|stored| stored.sequence > end);
            if self.fault.is_some() || is_past {
                break;
            }
        }
        if self.fault.is_none() && last < end {
            self.hole(read, verifier, log, last, end.next()).await?;
        }
        Ok(())
    }

    /// Takes in what the tombstones say by now; whether they can be believed.
    async fn learn(&mut self, read: &dyn Read, verifier: &mut Verifier) -> anyhow::Result<bool> {
        match tombstones(read, verifier.ring().clone()).await {
            Ok(erased) => verifier.learn(&erased),
            Err(TombstonesError::Read(error)) => self.damaged(error)?,
            Err(TombstonesError::Fault(fault)) => self.fault = Some((fault.at, text::chain(&fault))),
        }
        Ok(self.fault.is_none())
    }

    /// Checks one record; whether to go on.
    async fn take(
        &mut self,
        read: &dyn Read,
        verifier: &mut Verifier,
        log: Log,
        last: Sequence,
        stored: &Stored,
    ) -> anyhow::Result<bool> {
        if stored.sequence != last.next() && !self.hole(read, verifier, log, last, stored.sequence).await? {
            return Ok(false);
        }
        let mut verdict = verifier.check(log, stored, Depth::Signatures);
        if verdict.as_ref().is_err_and(Fault::may_be_erasure) {
            // The records before it may have been removed while others were read.
            if !self.learn(read, verifier).await? {
                return Ok(false);
            }
            verdict = verifier.check(log, stored, Depth::Signatures);
        }
        let counts = self.logs.entry(log).or_default();
        counts.through = stored.sequence;
        match verdict {
            Ok(Verdict::Believed(_)) => counts.believed += 1,
            Ok(Verdict::Erased) => counts.holes += 1,
            Ok(Verdict::Ignored(_, Ignored::Erased)) => counts.late += 1,
            Ok(Verdict::Ignored(_, why)) => {
                counts.ignored += 1;
                if self.ignored.len() < LISTED_MAX {
                    let at = Position { log, sequence: stored.sequence };
                    let subject = stored.subject.to_string();
                    self.ignored.push(IgnoredRecord { at, subject, why: format!("{why:?}") });
                }
            }
            // A host may have put it there: it is bad, and what comes after it is checked all the same.
            Err(fault) if verifier.pass(log, stored) => {
                counts.ignored += 1;
                if self.ignored.len() < LISTED_MAX {
                    let (at, subject) = (fault.at, stored.subject.to_string());
                    self.ignored.push(IgnoredRecord { at, subject, why: text::chain(&fault) });
                }
            }
            Err(fault) => {
                self.fault = Some((fault.at, text::chain(&fault)));
                counts.through = last;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes note of positions without a record, between `last` and `next`; whether they are allowed. Wrapped keys and meters are removed
    /// in the ordinary course. Of EVENTS nothing is, without a tombstone that says so.
    async fn hole(
        &mut self,
        read: &dyn Read,
        verifier: &mut Verifier,
        log: Log,
        last: Sequence,
        next: Sequence,
    ) -> anyhow::Result<bool> {
        let missing = next.0.saturating_sub(last.0).saturating_sub(1);
        self.logs.entry(log).or_default().holes += missing;
        let (first, end) = (last.next(), Sequence(next.0.saturating_sub(1)));
        if log != Log::Events || verifier.erased().covers(log, first, end) {
            return Ok(true);
        }
        if !self.learn(read, verifier).await? || verifier.erased().covers(log, first, end) {
            return Ok(self.fault.is_none());
        }
        let at =
            Position { log, sequence: verifier.erased().first_missing(log, first, end).unwrap_or(first) };
        let left = end.0.saturating_sub(at.sequence.0).saturating_add(1);
        let text = match left {
            1 => format!("the record at {at} is missing and no tombstone says why"),
            _ => format!("there are no records at {left} positions from {at} on, and no tombstone says why"),
        };
        self.fault = Some((at, text));
        Ok(false)
    }

    /// Damage that the store itself noticed is a fault; not reaching it is not.
    fn damaged(&mut self, error: ReadError) -> anyhow::Result<()> {
        match error {
            ReadError::Corrupt { at, .. } => {
                self.fault = Some((at, text::chain(&error)));
                Ok(())
            }
            error @ ReadError::Unavailable { .. } => Err(error.into()),
        }
    }

    fn total(&self, count: fn(&Counts) -> u64) -> u64 {
        self.logs.values().map(count).sum()
    }

    /// Prints it and says what the shell is told.
    pub(crate) fn print(&self, form: Form, out: &mut impl Write) -> anyhow::Result<Exit> {
        let is_good = self.fault.is_none() && self.total(|counts| counts.ignored) == 0;
        match form {
            Form::Json => writeln!(out, "{:#}", self.as_json(is_good))?,
            Form::Text => self.print_text(is_good, out)?,
        }
        Ok(if is_good { Exit::Good } else { Exit::Bad })
    }

    fn per_second(&self) -> u64 {
        let records = self.total(|counts| counts.believed + counts.ignored + counts.late);
        records.saturating_mul(1000) / self.took.0.max(1)
    }

    fn print_text(&self, is_good: bool, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "list: stored records, each believed, ignored or the first fault")?;
        writeln!(out, "root key: {}", self.root)?;
        for (log, counts) in
            self.logs.iter().filter(|(_, counts)| counts.through > Sequence::NONE || counts.holes > 0)
        {
            let Counts { through, believed, ignored, holes, late } = counts;
            write!(out, "{log}: through {through}, believed {believed}, ignored {ignored}, removed {holes}")?;
            match late {
                0 => writeln!(out)?,
                _ => writeln!(out, ", late for an erased account {late}")?,
            }
        }
        for IgnoredRecord { at, subject, why } in &self.ignored {
            writeln!(out, "ignored: {at} on {subject}: {why}")?;
        }
        if let (None, Some(IgnoredRecord { at, why, .. })) = (&self.fault, self.ignored.first()) {
            writeln!(out, "first bad position {at}: {why}; everything after it was checked")?;
        }
        if let Some((at, why)) = &self.fault {
            writeln!(out, "FAULT: first bad position {at}: {why}")?;
            writeln!(
                out,
                "Nothing after it was checked. Keep a copy of the store before anything else, then restore it from one that verifies."
            )?;
        }
        let records = self.total(|counts| counts.believed + counts.ignored + counts.late);
        writeln!(out, "records: {records} in {} ms, {} each second", self.took.0, self.per_second())?;
        writeln!(out, "{}", if is_good { "good: every record is believed" } else { "BAD" })?;
        Ok(())
    }

    fn as_json(&self, is_good: bool) -> serde_json::Value {
        let logs: BTreeMap<_, _> = self
            .logs
            .iter()
            .map(|(log, counts)| {
                let Counts { through, believed, ignored, holes, late } = counts;
                let counts = json!({
                    "through": through.0, "believed": believed, "ignored": ignored, "removed": holes, "late": late,
                });
                (log.to_string(), counts)
            })
            .collect();
        let ignored: Vec<_> = self
            .ignored
            .iter()
            .map(|record| json!({"at": record.at.to_string(), "subject": record.subject, "why": record.why}))
            .collect();
        let fault = self.fault.as_ref().map(|(at, why)| json!({"at": at.to_string(), "why": why}));
        json!({
            "root_key": self.root.to_string(),
            "logs": logs,
            "ignored": ignored,
            "fault": fault,
            "duration_ms": self.took.0,
            "records_per_second": self.per_second(),
            "good": is_good,
        })
    }
}
