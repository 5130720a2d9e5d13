//! The records about an account: read, checked, folded, and written down as lines.

use data_encoding::{BASE64, HEXLOWER};
use omnirun_commands_api::command::SealedField;
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::envelope::Record;
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, TokenId};
use omnirun_events::keyring::KeyRing;
use omnirun_events::log::{Sequence, Stored, Tail};
use omnirun_events::sandbox::METADATA_FIELD;
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::{Filter, Log, Slot, Subject, SubjectKind};
use omnirun_events::token::NAME_FIELD;
use omnirun_events::verify::{Depth, Ignored, Verdict, Verifier, tombstones};
use omnirun_projections::accounts::Account;
use omnirun_projections::sandboxes::Sandbox;
use omnirun_projections::tokens::Token;
use omnirun_projections::{Directory, Fold as _, Usage};
use serde_json::json;

use crate::archive::Archive;
use crate::export::{ExportError, Exporter};
use crate::readable::{self, Rules};
use crate::shapes::ExportedRecord;

/// Records that are looked at together: their sealed fields are opened with one command.
const TOGETHER: usize = 200;

/// What the records of one account come to.
pub(crate) struct Collected {
    pub directory: Directory,
    pub usage: Usage,
    verifier: Verifier,
}

impl Collected {
    pub(crate) fn email_of(&self, account: AccountId, known: &Account) -> SealedField {
        field(SubjectKind::Account(account), EMAIL_FIELD, known.email.clone())
    }

    pub(crate) fn name_of(&self, account: AccountId, id: TokenId, token: &Token) -> Option<SealedField> {
        token.name.clone().map(|name| field(SubjectKind::Token(account, id), NAME_FIELD, name))
    }

    pub(crate) fn metadata_of(&self, account: AccountId, sandbox: &Sandbox) -> Option<SealedField> {
        let subject = SubjectKind::Admission(account);
        sandbox.metadata.clone().map(|metadata| field(subject, METADATA_FIELD, metadata))
    }
}

fn field(subject: SubjectKind, name: &str, sealed: Sealed) -> SealedField {
    SealedField { subject: subject.into(), field: name.to_owned(), sealed }
}

/// Which records go where.
struct Part {
    log: Log,
    filter: Filter,
}

impl Exporter {
    /// Writes the files of records, and answers with what they come to.
    pub(crate) async fn collect(
        &self,
        account: AccountId,
        archive: &mut Archive,
    ) -> Result<Collected, ExportError> {
        let mut verifier = Verifier::new(KeyRing::rooted_in(&self.root)?);
        verifier.learn(&tombstones(&*self.reader, KeyRing::rooted_in(&self.root)?).await?);
        let mut all = Collected { directory: Directory::default(), usage: Usage::default(), verifier };
        for (name, subject) in
            [("keys.jsonl", SubjectKind::KeyRing), ("erasures.jsonl", SubjectKind::Erasure)]
        {
            archive.begin(name)?;
            let part = Part { log: Log::Events, filter: Filter::exactly(&subject.into()) };
            self.write(account, part, &mut all, archive).await?;
        }
        archive.begin("events.jsonl")?;
        let events = Filter::account(account);
        self.write(account, Part { log: Log::Events, filter: events }, &mut all, archive).await?;
        for slot in Slot::all() {
            let part = Part { log: Log::Usage(slot), filter: Filter::usage_of(account) };
            self.write(account, part, &mut all, archive).await?;
        }
        Ok(all)
    }

    async fn write(
        &self,
        account: AccountId,
        Part { log, filter }: Part,
        all: &mut Collected,
        archive: &mut Archive,
    ) -> Result<(), ExportError> {
        let mut cursor = self.reader.read(log, filter, Sequence::NONE).await?;
        loop {
            let page = cursor.next(TOGETHER, Tail::Return).await?;
            if page.records.is_empty() {
                return Ok(());
            }
            let mut lines = Vec::with_capacity(page.records.len());
            for stored in page.records {
                let verdict = match all.verifier.check(log, &stored, Depth::Signatures) {
                    // Rubbish that a host has put there is no record of the account.
                    Err(_) if all.verifier.pass(log, &stored) => continue,
                    checked => checked?,
                };
                match verdict {
                    Verdict::Believed(record) => {
                        all.directory.apply_record(&stored, &record);
                        all.usage.apply_record(&stored, &record);
                        lines.push((stored, record, None));
                    }
                    Verdict::Ignored(record, why) => lines.push((stored, record, Some(why))),
                    // It counts as gone, whether the store has got so far or not.
                    Verdict::Erased => {}
                }
            }
            self.write_lines(account, log, lines, archive).await?;
        }
    }

    async fn write_lines(
        &self,
        account: AccountId,
        log: Log,
        lines: Vec<(Stored, Record, Option<Ignored>)>,
        archive: &mut Archive,
    ) -> Result<(), ExportError> {
        let mut finder = Finder::default();
        for (stored, record, _) in &lines {
            finder.subject = Some(stored.subject.clone());
            let _ = events(record, &mut finder);
        }
        let texts = self.open(account, finder.found).await?;
        let mut opener = Opener { texts: texts.into_iter() };
        for (stored, record, ignored) in lines {
            let line = ExportedRecord {
                log: log.to_string(),
                position: stored.sequence.0,
                subject: stored.subject.to_string(),
                at: record.header.at.rfc3339(),
                header: readable::show(&record.header, &mut opener),
                events: events(&record, &mut opener),
                ignored: ignored.map(|why| format!("{why:?}")),
                record: BASE64.encode(&stored.record),
            };
            let mut line = serde_json::to_vec(&line).expect("texts and numbers always encode");
            line.push(b'\n');
            archive.write(&line).await?;
        }
        Ok(())
    }
}

fn events(record: &Record, rules: &mut impl Rules) -> Vec<serde_json::Value> {
    let named = record.header.events.iter().zip(&record.events);
    named
        .map(|(name, event)| match event {
            Event::Unknown { body, .. } => {
                json!({"event": name.0, "version": name.1, "bytes": HEXLOWER.encode(body)})
            }
            known => json!({"event": name.0, "version": name.1, "body": readable::show(known, rules)}),
        })
        .collect()
}

/// Finds the sealed fields of records, in the order in which [`Opener`] comes across them.
#[derive(Default)]
struct Finder {
    subject: Option<Subject>,
    found: Vec<SealedField>,
}

impl Rules for Finder {
    fn bytes(&mut self, _: &str, _: &[u8]) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn sealed(&mut self, name: &str, sealed: &Sealed) -> serde_json::Value {
        // Fields are sealed under the name that they have in their event.
        if let Some(subject) = &self.subject {
            let (subject, field, sealed) = (subject.clone(), name.to_owned(), sealed.clone());
            self.found.push(SealedField { subject, field, sealed });
        }
        serde_json::Value::Null
    }
}

/// Puts the opened texts where their sealed ones were.
struct Opener {
    texts: std::vec::IntoIter<Option<String>>,
}

impl Rules for Opener {
    fn bytes(&mut self, _: &str, bytes: &[u8]) -> serde_json::Value {
        HEXLOWER.encode(bytes).into()
    }

    fn sealed(&mut self, _: &str, _: &Sealed) -> serde_json::Value {
        self.texts.next().flatten().map_or(serde_json::Value::Null, serde_json::Value::from)
    }
}
