//! The billing fold alone: what an event costs it, and what it keeps, from ten thousand events to as many as are asked for. Reading and
//! checking of records is in [`super::rebuild`].

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use omnirun_billing::Billing;
use omnirun_events::account::AccountOpened;
use omnirun_events::sandbox::{Network, SandboxRequested, SandboxStopped, StopReason};
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::unit::{Seconds, Shape, StandardMillis};
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::{
    AccountId, Actor, CommitId, Event, Mebibytes, Millis, Role, SandboxId, Sequence, Slot, Subject,
    SubjectKind, Timestamp, Vcpus,
};
use omnirun_projections::{Fact, Fold as _};

use super::numbers::print_table;

/// Readings of one sandbox: an hour, one each minute.
const READINGS: u64 = 60;
/// Events of one sandbox: its request, its readings, its end.
const EVENTS: u64 = READINGS + 2;
const ACCOUNTS: u64 = 1000;
/// Minutes in which sandboxes start: 29 days.
const SPAN: u64 = 29 * 24 * 60;
const MINUTE: u64 = 60_000;
/// 2027-01-01: every sandbox runs in the month that begins here.
const BEGIN: Timestamp = Timestamp(20_819 * 24 * 60 * MINUTE);

/// Events of the largest history: an hour of each of 161,290 sandboxes, of a thousand accounts.
const EVENTS_MOST: u64 = 10_000_000;
const EVENTS_LEAST: u64 = 10_000;

/// Options of the billing fold
#[derive(Args)]
pub struct Options {
    /// Events of the largest history; each before it has a tenth
    #[arg(long, default_value_t = EVENTS_MOST)]
    events: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { events: EVENTS_MOST }
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.events >= EVENTS_LEAST, "--events has to be at least {EVENTS_LEAST}");
    // Not counted: what is touched for the first time by this process.
    measure(EVENTS_LEAST)?;
    let mut rows = Vec::new();
    let mut events = EVENTS_LEAST;
    while events <= options.events {
        rows.push(measure(events)?);
        events *= 10;
    }
    let head = [
        "events",
        "sandboxes",
        "fold s",
        "ns/event",
        "ns/event, worst order",
        "making them ns/event",
        "kept MB",
        "checkpoint MB",
    ];
    print_table("the billing fold: requests and ends, then readings in the order of time", &head, &rows);
    Ok(())
}

fn measure(events: u64) -> Result<Vec<String>> {
    let sandboxes = events / EVENTS;
    let made = Instant::now();
    history(sandboxes, Order::Time, |kind, at, event| drop(black_box((kind, at, event))));
    let made = made.elapsed();
    let before = resident()?;
    let (state, took) = fold(sandboxes, Order::Time);
    let kept = resident()?.saturating_sub(before);
    let (other, in_turns) = fold(sandboxes, Order::Turns);
    ensure!(state.digest() == other.digest(), "the order of readings changes the state");
    let used = state.iter().map(|(_, ledger)| ledger.used(ledger.period(BEGIN)).0).sum::<u64>();
    ensure!(used == sandboxes * READINGS * MINUTE, "the fold lost something");
    let checkpoint = rmp_serde::to_vec_named(&state)?.len();
    let each = |took: Duration| format!("{:.0}", took.as_secs_f64() * 1e9 / (sandboxes * EVENTS) as f64);
    let megabytes = |bytes: usize| format!("{:.1}", bytes as f64 / 1e6);
    Ok(vec![
        (sandboxes * EVENTS).to_string(),
        sandboxes.to_string(),
        format!("{:.3}", took.as_secs_f64()),
        each(took),
        each(in_turns),
        each(made),
        megabytes(kept),
        megabytes(checkpoint),
    ])
}

fn fold(sandboxes: u64, order: Order) -> (Billing, Duration) {
    let (mut state, subject) = (Billing::default(), Subject::from(SubjectKind::Registry));
    let started = Instant::now();
    history(sandboxes, order, |kind, at, event| {
        state.apply(&Fact {
            sequence: Sequence(1),
            subject: &subject,
            kind,
            at,
            actor: Actor::System(Role::Commands),
            commit: CommitId::from_bytes([0; 16]),
            event: &event,
        });
    });
    (state, started.elapsed())
}

/// In which order readings come.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// As they are made, and as a usage log holds them.
    Time,
    /// One of every sandbox, then the next of every sandbox: no two beside each other touch the same memory.
    Turns,
}

/// A history in the order of a rebuild: EVENTS, then readings.
fn history(sandboxes: u64, order: Order, mut take: impl FnMut(SubjectKind, Timestamp, Event)) {
    for account in 0..ACCOUNTS {
        let email = Sealed { key: DataKeyLabel::Account, nonce: [0; 24], text: Vec::new() };
        let opened = AccountOpened { email, plan: "launch".to_owned() };
        take(SubjectKind::Account(account_of(account)), BEGIN, opened.into());
    }
    for sandbox in 0..sandboxes {
        let (account, id) = (account_of(sandbox), id_of(sandbox));
        take(SubjectKind::Admission(account), BEGIN, requested(id));
        let (stopped_at, meter) = (at(sandbox, READINGS), meter(READINGS));
        let stopped = SandboxStopped { reason: StopReason::TimedOut, stopped_at, meter, teardown: Millis(1) };
        take(SubjectKind::Sandbox(account, id), stopped_at, stopped.into());
    }
    let mut read = |sandbox: u64, reading: u64| {
        let observed_at = at(sandbox, reading);
        let metered = UsageMetered { period: reading as u32, observed_at, meter: meter(reading) };
        let kind = SubjectKind::Usage(Slot::of(observed_at), account_of(sandbox), id_of(sandbox));
        take(kind, observed_at, metered.into());
    };
    match order {
        Order::Turns => (1..=READINGS).for_each(|reading| (0..sandboxes).for_each(|one| read(one, reading))),
        Order::Time => {
            for minute in 1..SPAN + READINGS {
                for reading in minute.saturating_sub(SPAN - 1).max(1)..=minute.min(READINGS) {
                    let started = minute - reading;
                    (started..sandboxes).step_by(SPAN as usize).for_each(|one| read(one, reading));
                }
            }
        }
    }
}

/// When a reading of a sandbox is made: one starts each minute, and after a month's worth of minutes the next ones join them.
fn at(sandbox: u64, reading: u64) -> Timestamp {
    BEGIN.after(Millis((sandbox % SPAN + reading) * MINUTE))
}

fn meter(reading: u64) -> Meter {
    Meter { wall: Millis(reading * MINUTE), ..Meter::default() }
}

fn account_of(sandbox: u64) -> AccountId {
    AccountId::from_bytes(scattered(sandbox % ACCOUNTS))
}

fn id_of(sandbox: u64) -> SandboxId {
    SandboxId::from_bytes(scattered(sandbox))
}

/// Ids are random; these are as scattered and cost nothing (an odd factor: no two alike).
fn scattered(number: u64) -> [u8; 16] {
    u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes()
}

fn requested(sandbox: SandboxId) -> Event {
    SandboxRequested {
        sandbox,
        template: "base".to_owned(),
        shape: Shape { vcpus: Vcpus(1), memory: Mebibytes(512) },
        timeout: Seconds(3600),
        reserved: StandardMillis(3_600_000),
        deadline: BEGIN,
        network: Network::Off,
        metadata: None,
    }
    .into()
}

/// Bytes of this process in memory (proc(5), statm).
fn resident() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").context("cannot read /proc/self/statm")?;
    let pages: usize = text.split(' ').nth(1).context("statm has no second field")?.parse()?;
    Ok(pages * 4096)
}
