//! The ledger: what each account's sandboxes have run since its last closed statement, and what was closed.
//!
//! Cumulative readings are kept by day, the highest of each: repeated readings change nothing, and neither does the order in which
//! the logs are read. What ran on a day is the difference to the days before it. A month's last word is its statement, which comes
//! as an event; from there on readings of its days are not looked at, so that a rebuild does not need them and ends alike.
//!
//! Nothing is known of a sandbox but what was metered: one whose host died is billed to the last reading that arrived. What it was
//! paused counts for its memory alone ([`Meter::counted`]). Nobody is billed for more than was reserved.

use std::collections::BTreeMap;

use omnirun_events::billing::{Carried, Correction, StatementClosed, StatementLine};
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::sandbox::{SandboxStopped, StopReason};
use omnirun_events::subject::SubjectKind;
use omnirun_events::unit::{Day, MicroCents, Millis, Shape, StandardMillis, Timestamp};
use omnirun_events::usage::Meter;
use omnirun_projections::plans::PlanNames;
use omnirun_projections::{Fact, Fold};
use serde::{Deserialize, Serialize};

use crate::calendar::Period;

/// Every account's ledger. Follows EVENTS and the usage logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Billing {
    accounts: BTreeMap<AccountId, Ledger>,
}

/// What one account is billed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// When the account was opened; its months begin on this day of the month.
    pub opened_at: Timestamp,
    /// The names of its plans. A month is rated by the one that holds when it begins.
    pub plans: PlanNames,
    /// Days before this one are closed.
    closed_through: Timestamp,
    /// Sandboxes that ran since then, or may have.
    sandboxes: BTreeMap<SandboxId, Running>,
    statements: Vec<Closed>,
    /// The latest month that the account was told about, and the highest percentage that it was told.
    noticed: Option<(Timestamp, u8)>,
}

/// A closed month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Its statement, as it was recorded.
    pub statement: StatementClosed,
    /// When.
    pub at: Timestamp,
    /// What was corrected since, oldest first.
    pub corrections: Vec<(Timestamp, Correction, MicroCents)>,
}

impl Closed {
    /// What the account owes for the month: the statement's amount and all charges, less all credits, in whichever order they were made. Less
    /// than nothing is nothing.
    pub fn due(&self) -> MicroCents {
        let sum = |wanted: Correction| {
            let such = self.corrections.iter().filter(|(_, correction, _)| *correction == wanted);
            such.fold(MicroCents::ZERO, |sum, (_, _, amount)| sum.plus(*amount))
        };
        self.statement.amount.plus(sum(Correction::Charge)).minus(sum(Correction::Credit))
    }
}

/// A sandbox since the last closed statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Running {
    shape: Shape,
    /// What is reserved for it: it is billed for no more.
    reserved: StandardMillis,
    /// Running time that counts in closed statements.
    base: Millis,
    /// What counts by the highest reading of each day, in order of days.
    days: Vec<(Day, Millis)>,
    /// When it stopped, and the most that counts from then on.
    stopped: Option<(Timestamp, Millis)>,
}

impl Billing {
    /// An account's ledger.
    pub fn of(&self, account: AccountId) -> Option<&Ledger> {
        self.accounts.get(&account)
    }

    /// Every account's.
    pub fn iter(&self) -> impl Iterator<Item = (AccountId, &Ledger)> {
        self.accounts.iter().map(|(id, ledger)| (*id, ledger))
    }
}

impl Ledger {
    fn new(opened_at: Timestamp, plan: &str) -> Self {
        Self {
            opened_at,
            plans: PlanNames::opened(plan),
            closed_through: Timestamp(0),
            sandboxes: BTreeMap::new(),
            statements: Vec::new(),
            noticed: None,
        }
    }

    /// Whether the account was told of this percentage, or a higher one, in the month that begins at `start`.
    pub fn was_told(&self, start: Timestamp, percent: u8) -> bool {
        self.noticed >= Some((start, percent))
    }

    /// The account's month that `at` lies in.
    pub fn period(&self, at: Timestamp) -> Period {
        Period::of(self.opened_at, at)
    }

    /// The first month that is not closed.
    pub fn first_open(&self) -> Period {
        self.period(self.closed_through.max(self.opened_at))
    }

    /// Closed months, oldest first.
    pub fn statements(&self) -> &[Closed] {
        &self.statements
    }

    /// What the account's sandboxes used on the days of a month that is not closed, by day and shape. Of a closed month there is
    /// nothing here.
    pub fn lines(&self, period: Period) -> Vec<StatementLine> {
        let mut lines: BTreeMap<(Day, u8, u32), StatementLine> = BTreeMap::new();
        for sandbox in self.sandboxes.values() {
            for (day, standard) in sandbox.used().filter(|(day, _)| period.contains(day.start())) {
                let shape = sandbox.shape;
                let line = lines.entry((day, shape.vcpus.0, shape.memory.0)).or_insert(StatementLine {
                    day,
                    shape: Some(shape),
                    sandboxes: 0,
                    standard: StandardMillis::ZERO,
                });
                line.sandboxes = line.sandboxes.saturating_add(1);
                line.standard = line.standard.plus(standard);
            }
        }
        lines.into_values().collect()
    }

    /// The sum of [`Self::lines`].
    pub fn used(&self, period: Period) -> StandardMillis {
        let of_one = |sandbox: &Running| {
            let used = sandbox.used().filter(|(day, _)| period.contains(day.start()));
            used.fold(StandardMillis::ZERO, |sum, (_, used)| sum.plus(used))
        };
        self.sandboxes.values().map(of_one).fold(StandardMillis::ZERO, StandardMillis::plus)
    }

    /// The sandboxes that a month which ends at `end` hands on to the next one.
    pub(crate) fn carried(&self, end: Timestamp) -> Vec<Carried> {
        let goes_on = |sandbox: &Running| sandbox.stopped.is_none_or(|(at, _)| at >= end);
        let running = self.sandboxes.iter().filter(|(_, sandbox)| goes_on(sandbox));
        let carried = running.map(|(id, sandbox)| Carried { sandbox: *id, wall: sandbox.wall_before(end) });
        carried.filter(|carried| carried.wall > Millis::ZERO).collect()
    }

    fn observe(&mut self, id: SandboxId, at: Timestamp, meter: &Meter) {
        let day = Day::of(at);
        if day.start() < self.closed_through {
            return;
        }
        // A request comes before all readings of its sandbox, in every order of the logs; of what is not known there is nothing to bill.
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        let counted = meter.counted(sandbox.shape);
        match sandbox.days.binary_search_by_key(&day, |(day, _)| *day) {
            Ok(place) => sandbox.days[place].1 = sandbox.days[place].1.max(counted),
            Err(place) => sandbox.days.insert(place, (day, counted)),
        }
    }

    /// Changes what is reserved for a sandbox that has not ended.
    fn reserve(&mut self, id: SandboxId, change: impl FnOnce(&Running) -> StandardMillis) {
        if let Some(sandbox) = self.sandboxes.get_mut(&id).filter(|sandbox| sandbox.stopped.is_none()) {
            sandbox.reserved = change(sandbox);
        }
    }

    fn stop(&mut self, id: SandboxId, stopped: &SandboxStopped) {
        let (at, meter) = (stopped.stopped_at, &stopped.meter);
        self.observe(id, at, meter);
        if at < self.closed_through {
            self.sandboxes.remove(&id);
        } else if let Some(sandbox) = self.sandboxes.get_mut(&id) {
            let limit = match stopped.reason {
                // What its host found of it may be less than what had been metered; that had been used all the same.
                StopReason::OwnerDied => Millis(u64::MAX),
                _ => meter.counted(sandbox.shape),
            };
            sandbox.stopped.get_or_insert((at, limit));
        }
    }

    fn close(&mut self, statement: &StatementClosed, at: Timestamp) {
        let end = statement.end;
        if statement.start < self.closed_through || end <= statement.start {
            return;
        }
        self.closed_through = end;
        self.sandboxes.retain(|_, sandbox| sandbox.stopped.is_none_or(|(at, _)| at >= end));
        for sandbox in self.sandboxes.values_mut() {
            sandbox.days.retain(|(day, _)| day.start() >= end);
        }
        for carried in &statement.carried {
            if let Some(sandbox) = self.sandboxes.get_mut(&carried.sandbox) {
                sandbox.base = sandbox.base.max(carried.wall);
            }
        }
        self.statements.push(Closed { statement: statement.clone(), at, corrections: Vec::new() });
    }
}

impl Running {
    fn new(shape: Shape, reserved: StandardMillis) -> Self {
        Self { shape, reserved, base: Millis::ZERO, days: Vec::new(), stopped: None }
    }

    /// What it is billed for in all once so much of its time counts.
    fn billed(&self, counted: Millis) -> StandardMillis {
        self.shape.charge(counted).min(self.reserved.whole_seconds())
    }

    /// What it used on each day on which it used something.
    fn used(&self) -> impl Iterator<Item = (Day, StandardMillis)> {
        // A host that has said how long a sandbox ran in all cannot raise it afterwards.
        let limit = self.stopped.map_or(Millis(u64::MAX), |(_, wall)| wall);
        let days = self.days.iter().scan(self.base, move |before, (day, wall)| {
            let so_far = (*before).max((*wall).min(limit));
            let used = self.billed(so_far).minus(self.billed(*before));
            *before = so_far;
            Some((*day, used))
        });
        days.filter(|(_, used)| *used > StandardMillis::ZERO)
    }

    /// Its running time on the days before `end`, as far as it is billed.
    fn wall_before(&self, end: Timestamp) -> Millis {
        let limit = self.stopped.map_or(Millis(u64::MAX), |(_, wall)| wall);
        let days = self.days.iter().take_while(|(day, _)| day.start() < end);
        days.fold(self.base, |so_far, (_, wall)| so_far.max((*wall).min(limit)))
    }
}

impl Fold for Billing {
    const NAME: &'static str = "billing";
    const VERSION: u32 = 2;

    fn apply(&mut self, fact: &Fact<'_>) {
        let Some(account) = fact.kind.account() else { return };
        if let (SubjectKind::Account(_), Event::AccountOpened(opened)) = (fact.kind, fact.event) {
            self.accounts.entry(account).or_insert_with(|| Ledger::new(fact.at, &opened.plan));
            return;
        }
        let Some(ledger) = self.accounts.get_mut(&account) else { return };
        match (fact.kind, fact.event) {
            (SubjectKind::Admission(_), Event::SandboxRequested(requested)) => {
                let entry = ledger.sandboxes.entry(requested.sandbox);
                entry.or_insert_with(|| Running::new(requested.shape, requested.reserved));
            }
            (SubjectKind::Admission(_), Event::TimeoutExtended(extended)) => {
                ledger.reserve(extended.sandbox, |_| extended.reserved);
            }
            (SubjectKind::Admission(_), Event::SandboxResumed(resumed)) => {
                ledger.reserve(resumed.sandbox, |_| resumed.reserved);
            }
            (SubjectKind::Sandbox(_, id), Event::SandboxPaused(paused)) => {
                ledger.reserve(id, |sandbox| sandbox.reserved.min(paused.reserved(sandbox.shape)));
            }
            (SubjectKind::Sandbox(_, id), Event::SandboxFailed(_)) => drop(ledger.sandboxes.remove(&id)),
            (SubjectKind::Sandbox(_, id), Event::SandboxStopped(stopped)) => {
                ledger.stop(id, stopped);
            }
            (SubjectKind::Usage(_, _, id), Event::UsageMetered(metered)) => {
                ledger.observe(id, metered.observed_at, &metered.meter);
            }
            (SubjectKind::Billing(_), Event::StatementClosed(statement)) => ledger.close(statement, fact.at),
            (SubjectKind::Billing(_), Event::StatementCorrected(corrected)) => {
                let mut closed = ledger.statements.iter_mut();
                if let Some(closed) = closed.find(|closed| closed.statement.start == corrected.start) {
                    closed.corrections.push((fact.at, corrected.correction, corrected.amount));
                }
            }
            (SubjectKind::Billing(_), Event::UsageNoticed(noticed)) => {
                ledger.noticed = ledger.noticed.max(Some((noticed.start, noticed.percent)));
            }
            (SubjectKind::Account(_), Event::PlanChanged(changed)) => ledger.plans.change(changed),
            (SubjectKind::Account(_), Event::AccountClosed(_)) => drop(self.accounts.remove(&account)),
            _ => {}
        }
    }

    fn forget(&mut self, subject: SubjectKind) {
        let Some(account) = subject.account() else { return };
        match (subject, self.accounts.get_mut(&account)) {
            (SubjectKind::Account(_), _) => drop(self.accounts.remove(&account)),
            (SubjectKind::Admission(_), Some(ledger)) => ledger.sandboxes.clear(),
            (SubjectKind::Sandbox(_, sandbox), Some(ledger)) => drop(ledger.sandboxes.remove(&sandbox)),
            // The records that are read again after it say what was closed; without them nothing was.
            (SubjectKind::Billing(_), Some(ledger)) => ledger.statements.clear(),
            // Readings go by the week and long after their months were closed.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_does_not_depend_on_the_order_of_corrections() {
        let of = |corrections: &[(Correction, u64)]| {
            let statement = StatementClosed {
                start: Timestamp(0),
                end: Timestamp(1),
                plan: String::new(),
                price_from: Timestamp(0),
                base: MicroCents(5),
                included: StandardMillis::ZERO,
                overage_per_second: None,
                lines: Vec::new(),
                standard: StandardMillis::ZERO,
                overage: StandardMillis::ZERO,
                amount: MicroCents(5),
                carried: Vec::new(),
                seen: Vec::new(),
            };
            let corrections = corrections.iter().map(|(kind, by)| (Timestamp(0), *kind, MicroCents(*by)));
            Closed { statement, at: Timestamp(0), corrections: corrections.collect() }.due().0
        };
        let (credit, charge) = ((Correction::Credit, 9), (Correction::Charge, 7));
        assert_eq!((of(&[credit, charge]), of(&[charge, credit])), (3, 3));
        assert_eq!((of(&[]), of(&[credit]), of(&[charge])), (5, 0, 12));
    }
}
