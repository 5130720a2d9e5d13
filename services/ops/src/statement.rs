//! `omnirun ops statement`: the closed months of an export, computed again from the records in it. No store is opened.
//!
//! A statement says how far the logs were read when it was closed. Up to there the account's records are folded anew, rated by the price that
//! the statement itself names, and encoded: the bytes have to be those that were signed. Where readings are 90 days old by now, and so gone,
//! the signature is what is left to check, which opening the export has done.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail};
use omnirun_billing::Billing;
use omnirun_billing::calendar::label;
use omnirun_billing::statement::again;
use omnirun_events::billing::StatementClosed;
use omnirun_events::codec::header_and_payload;
use omnirun_events::envelope::{Draft, Head, Record};
use omnirun_events::event::Event;
use omnirun_events::id::AccountId;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Sequence, Stored};
use omnirun_events::subject::Log;
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_export::check::check_with;
use omnirun_projections::Fold as _;
use serde_json::json;

use crate::dispatch::Form;
use crate::exit::Exit;
use crate::exported;

/// From a month's beginning until a record of its use may be gone: the age that none reaches, less the week that a session may last, since an
/// ended sandbox takes those with it that were requested before it, and less the three hours that retention is ahead at most.
const WHOLE_FOR: Millis = Millis((90 - 7) * 24 * 3600 * 1000 - 3 * 3600 * 1000);

/// What is wanted.
pub(crate) struct Wish<'a> {
    /// The export.
    pub from: &'a Path,
    pub root: Digest,
    /// One month, such as `2026-11`; none for all.
    pub month: Option<String>,
    pub form: Form,
}

/// What came of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The same bytes.
    Same,
    /// Its readings are gone, or it does not say how far it had read; it is signed.
    SignatureOnly,
    /// Its readings are there and say something else.
    Different,
}

impl Found {
    const fn text(self) -> &'static str {
        match self {
            Self::Same => "the same bytes, computed again from this export",
            Self::SignatureOnly => "signature only: what it was computed from is not in this export any more",
            Self::Different => "DIFFERENT: its records give another statement",
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::SignatureOnly => "signature_only",
            Self::Different => "different",
        }
    }
}

/// Checks the export, computes its statements again and prints what came of each.
pub(crate) fn run(wish: &Wish<'_>, out: &mut impl Write) -> anyhow::Result<Exit> {
    let mut records = Vec::new();
    let checked = check_with(wish.from, &wish.root, |stored, record| {
        if stored.subject.kind().account().is_some() {
            records.push((stored.clone(), record.clone()));
        }
    });
    let checked = match checked {
        Ok(checked) => checked,
        Err(error) => return exported::bad(error, wish.form, out),
    };
    let account = checked.account.parse().context("the export names no account")?;
    let exported_at =
        Timestamp::parse_rfc3339(&checked.exported_at).context("the export does not say when it was made")?;
    let mut found = Vec::new();
    for (stored, record) in &records {
        for event in &record.events {
            let Event::StatementClosed(closed) = event else { continue };
            if wish.month.as_ref().is_none_or(|month| *month == label(closed.start)) {
                found.push((closed, compare(account, closed, (stored, record), &records, exported_at)));
            }
        }
    }
    if found.is_empty()
        && let Some(month) = &wish.month
    {
        bail!("there is no statement of {month} in this export");
    }
    print(account, &found, wish.form, out)?;
    let is_wrong = found.iter().any(|(_, found)| *found == Found::Different);
    Ok(if is_wrong { Exit::Bad } else { Exit::Good })
}

fn compare(
    account: AccountId,
    closed: &StatementClosed,
    (stored, record): (&Stored, &Record),
    records: &[(Stored, Record)],
    exported_at: Timestamp,
) -> Found {
    if closed.seen.is_empty() {
        return Found::SignatureOnly;
    }
    let computed = folded(closed, records).of(account).map(|ledger| again(ledger, closed));
    let header = &record.header;
    let draft = |statement: StatementClosed| Draft {
        commit: header.commit,
        subject: stored.subject.clone(),
        at: header.at,
        actor: header.actor,
        cause: header.cause,
        events: vec![statement.into()],
    };
    let bytes =
        computed.and_then(|computed| header_and_payload(&draft(computed), &Head::EMPTY, header.key).ok());
    if bytes.is_some_and(|(_, payload)| payload == *record.payload()) {
        return Found::Same;
    }
    let is_whole = closed.start.after(WHOLE_FOR) > exported_at;
    if is_whole { Found::Different } else { Found::SignatureOnly }
}

/// The ledgers as the statement's maker had them: what was in the logs that it read, as far as it read them.
fn folded(closed: &StatementClosed, records: &[(Stored, Record)]) -> Billing {
    let seen: BTreeMap<Log, Sequence> = closed.seen.iter().map(|seen| (seen.0, seen.1)).collect();
    let mut billing = Billing::default();
    let known = records.iter().filter(|(stored, _)| {
        seen.get(&stored.subject.log()).is_some_and(|through| stored.sequence <= *through)
    });
    known.for_each(|(stored, record)| billing.apply_record(stored, record));
    billing
}

fn print(
    account: AccountId,
    found: &[(&StatementClosed, Found)],
    form: Form,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if form == Form::Json {
        let shown: Vec<_> = found
            .iter()
            .map(|(closed, found)| {
                json!({ "month": label(closed.start), "amount_micro_cents": closed.amount.0, "found": found.code() })
            })
            .collect();
        writeln!(out, "{:#}", json!({ "account": account.to_string(), "statements": shown }))?;
        return Ok(());
    }
    writeln!(out, "account: {account}")?;
    writeln!(out, "statements: {}", found.len())?;
    for (closed, found) in found {
        writeln!(out, "{}: {} micro-cents; {}", label(closed.start), closed.amount.0, found.text())?;
    }
    Ok(())
}
