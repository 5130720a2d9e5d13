//! A customer's own export gives the statements that were closed, to the byte, and nothing else passes for one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use omnirun_billing::statement::statement;
use omnirun_billing::{Billing, Plans};
use omnirun_commands_api::command::{Command, EXPORT_TYPE, Envelope};
use omnirun_commands_api::{Commands, Outcome, Reply, SendError};
use omnirun_events::billing::{SeenThrough, StatementClosed};
use omnirun_events::envelope::{Actor, Role};
use omnirun_events::log::{Erase as _, Read as _, read_to_end};
use omnirun_events::sandbox::TimeoutExtended;
use omnirun_events::signing::Signer;
use omnirun_events::subject::{Filter, Log, Slot, SubjectKind};
use omnirun_events::unit::{MicroCents, Millis, StandardMillis, Timestamp};
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::{Sequence, codec};
use omnirun_export::Exporter;
use omnirun_ops::Exit;
use omnirun_projections::Fold as _;

use crate::world::*;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// Opens nothing, and signs.
struct Double(Signer);

#[async_trait]
impl Commands for Double {
    async fn send(&self, envelope: Envelope) -> Result<Reply, SendError> {
        let outcome = match envelope.command {
            Command::OpenFields { fields, .. } => {
                Outcome::FieldsOpened(fields.iter().map(|_| None).collect())
            }
            Command::SignExport { account, manifest } => {
                let signature = self.0.sign_as(EXPORT_TYPE, &[account.as_bytes(), &manifest.0]).to_vec();
                Outcome::ExportSigned { key: self.0.id(), signature }
            }
            other => panic!("an export does not ask for {other:?}"),
        };
        Ok(Reply { position: None, outcome })
    }
}

fn slot() -> Slot {
    Slot::of(Timestamp(0))
}

/// A history whose sandbox may run all day.
async fn long_running() -> World {
    let world = World::with_history().await;
    let (end_at, reserved) = (Timestamp(DAY), StandardMillis(DAY));
    let extended = TimeoutExtended { sandbox: sandbox(1), end_at, reserved };
    world.append_as(Role::Commands, SubjectKind::Admission(account()), vec![extended.into()]).await;
    world
}

/// The sandbox has run for so many hours of the first day of 1970.
async fn read(world: &World, hours: u64) {
    let observed_at = Timestamp(hours * HOUR);
    let meter = Meter { wall: Millis(hours * HOUR), ..Meter::default() };
    let usage = SubjectKind::Usage(slot(), account(), sandbox(1));
    world.append_as(Role::Worker, usage, vec![UsageMetered { period: 2, observed_at, meter }.into()]).await;
}

/// The statement of January 1970 from everything that is in the logs now.
async fn january(world: &World) -> StatementClosed {
    let (mut billing, mut seen) = (Billing::default(), Vec::new());
    for log in [Log::Events, Log::Usage(slot())] {
        for stored in read_to_end(&world.log, log, Filter::all(), Sequence::NONE).await.expect("memory") {
            billing.apply_record(&stored, &codec::decode(&stored.record).expect("a record"));
        }
        seen.push(SeenThrough(log, world.log.head(log).await.expect("memory")));
    }
    let plans = Plans::parse(include_str!("../../../../infra/plans.toml")).expect("valid");
    let ledger = billing.of(account()).expect("it was opened");
    let closed = statement(ledger, plans.get("launch").expect("one of three"), ledger.period(Timestamp(1)));
    StatementClosed { seen, ..closed }
}

async fn close(world: &World, statement: &StatementClosed) {
    let billing = SubjectKind::Billing(account());
    world.append_as(Role::Commands, billing, vec![statement.clone().into()]).await;
}

async fn export(world: &World, day: u64) -> PathBuf {
    let identity = world.identity();
    let exporter = Exporter {
        reader: Arc::new(world.log.clone()),
        commands: Arc::new(Double(identity.commands)),
        root: identity.root,
        clock: Arc::new(move || Timestamp(day * DAY)),
        actor: Actor::Account(account()),
        taken_within: Duration::MAX,
    };
    let (mut pieces, mut bytes) = (exporter.begin(account(), std::future::pending()), Vec::new());
    while let Some(piece) = pieces.recv().await {
        bytes.extend_from_slice(&piece.expect("a good log"));
    }
    let path = world.data().join("export.zip");
    std::fs::write(&path, bytes).expect("room");
    path
}

/// What the command says of the export that is made on this day.
async fn said(world: &World, day: u64, more: &[&str]) -> (Exit, String) {
    let path = export(world, day).await;
    let from = path.to_str().expect("plain");
    let (exit, out, errors) = world.ops(&[&["statement", "--from", from], more].concat()).await;
    (exit, out + &errors)
}

#[tokio::test]
async fn a_month_whose_readings_are_there_gives_the_same_bytes_whatever_came_after_the_close() {
    let world = long_running().await;
    read(&world, 5).await;
    let closed = january(&world).await;
    assert_eq!(closed.standard.0, 5 * HOUR);
    close(&world, &closed).await;
    // Live, a reading of a closed day is not looked at.
    read(&world, 7).await;
    let (exit, text) = said(&world, 40, &[]).await;
    assert!(exit == Exit::Good && text.contains("1970-01: 1900000000 micro-cents; the same bytes"), "{text}");
    let (exit, text) = said(&world, 40, &["--month", "1970-01", "--json"]).await;
    assert!(exit == Exit::Good && text.contains("\"found\": \"same\""), "{text}");
    let (exit, text) = said(&world, 40, &["--month", "1970-02"]).await;
    assert!(exit == Exit::Failed && text.contains("no statement of 1970-02"), "{text}");
}

#[tokio::test]
async fn a_statement_that_its_readings_do_not_give_is_named() {
    let changes: [fn(&mut StatementClosed); 3] = [
        |closed| closed.amount = MicroCents(closed.amount.0 + 1),
        |closed| closed.lines[0].sandboxes = 2,
        |closed| closed.seen.truncate(1),
    ];
    for change in changes {
        let world = long_running().await;
        read(&world, 5).await;
        let mut closed = january(&world).await;
        change(&mut closed);
        close(&world, &closed).await;
        let (exit, text) = said(&world, 40, &[]).await;
        assert!(exit == Exit::Bad && text.contains("DIFFERENT"), "{text}");
    }
}

#[tokio::test]
async fn a_month_whose_readings_are_gone_is_vouched_for_by_its_signature() {
    let world = long_running().await;
    read(&world, 5).await;
    let closed = january(&world).await;
    close(&world, &closed).await;
    world.log.purge_all(Log::Usage(slot()), Filter::all()).await.expect("memory");
    let (exit, text) = said(&world, 91, &[]).await;
    assert!(exit == Exit::Good && text.contains("1970-01: 1900000000 micro-cents; signature only"), "{text}");
    // While they should be there, a reading that is missing is no excuse.
    let (exit, text) = said(&world, 40, &[]).await;
    assert!(exit == Exit::Bad && text.contains("DIFFERENT"), "{text}");
}

#[tokio::test]
async fn a_statement_of_version_1_says_not_what_it_was_computed_from() {
    let world = long_running().await;
    read(&world, 5).await;
    let closed = StatementClosed { seen: Vec::new(), ..january(&world).await };
    close(&world, &closed).await;
    let (exit, text) = said(&world, 40, &[]).await;
    assert!(exit == Exit::Good && text.contains("signature only"), "{text}");
}

#[tokio::test]
async fn an_export_that_was_changed_gives_no_statement() {
    let world = long_running().await;
    let path = export(&world, 40).await;
    let mut bytes = std::fs::read(&path).expect("it was just written");
    // Within README.txt, which is always the same: in the middle it may be a file's time, which says nothing.
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).expect("room");
    let (exit, out, _) = world.ops(&["statement", "--from", path.to_str().expect("plain")]).await;
    assert!(exit == Exit::Bad && out.contains("BAD: do not trust"), "{out}");
}
