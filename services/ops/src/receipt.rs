//! `omnirun ops verify --receipt`: the receipt that a person was mailed when their account was erased. Whether it was signed by a commands key
//! of this installation, and what the log says of that erasure: tombstones, the end, and the master key that was replaced after it.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use omnirun_commands_api::command::RECEIPT_TYPE;
use omnirun_events::envelope::Role;
use omnirun_events::erasure::Cause;
use omnirun_events::event::Event;
use omnirun_events::id::ReceiptId;
use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Position, Read, Sequence, read_to_end};
use omnirun_events::signing::{PublicKey, key_id};
use omnirun_events::subject::{Filter, Log, SubjectKind};
use omnirun_events::verify::{Depth, Verdict, Verifier};
use serde::Deserialize;
use serde_json::json;

use crate::dispatch::Form;
use crate::exit::Exit;
use crate::identity;

/// A receipt is some twenty short lines in a mail; more than this is something else.
const BYTES_MAX: u64 = 1 << 20;

/// What the receipt says that is looked at here.
#[derive(Debug, Deserialize)]
struct Said {
    receipt: ReceiptId,
    signed_by: String,
}

/// A receipt as it was mailed: the signed text, what it says, and the signature.
#[derive(Debug)]
pub(crate) struct Mailed {
    document: String,
    said: Said,
    signature: Vec<u8>,
}

impl Mailed {
    /// Reads a file with the mail's text or its whole source; lines before and after the receipt are passed over.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        ensure!(size <= BYTES_MAX, "{} is too large for a receipt", path.display());
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| {
            format!("{} does not hold a receipt; save the mail's text as it came", path.display())
        })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // Mail programs end lines in their own way; the signature is over plain line feeds.
        let lines: Vec<&str> = text.lines().collect();
        let begin = lines.iter().position(|line| *line == "{").context("no line is a single {")?;
        let length = lines[begin..].iter().position(|line| *line == "}").context("no line is a single }")?;
        let document = lines[begin..=begin + length].join("\n");
        let said = serde_json::from_str(&document).context("what is between the braces is no receipt")?;
        let mut after = lines[begin + length..].iter().skip_while(|line| !line.starts_with("Signature "));
        ensure!(after.next().is_some_and(|line| line.contains(RECEIPT_TYPE)), "there is no signature");
        let mut signature = Vec::new();
        for line in after.take(2) {
            signature.extend(identity::parse_fingerprint(line).context("the signature is not whole")?);
        }
        ensure!(signature.len() == 64, "the signature is not whole");
        Ok(Self { document, said, signature })
    }
}

/// What the log says of a receipt.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    receipt: String,
    /// Why nothing in it can be believed.
    fault: Option<String>,
    /// Records under the erasure's tombstones, in all logs.
    removed: u64,
    finished: Option<Position>,
    /// The epoch of the master key that began after the last tombstone: copies of destroyed keys are worthless since.
    made_final: Option<u32>,
}

/// Checks a receipt against the log. An error means that the store could not be reached, or that its keys cannot be believed.
pub(crate) async fn check(read: &dyn Read, root: &Digest, mailed: &Mailed) -> anyhow::Result<Report> {
    let mut report = Report { receipt: mailed.said.receipt.to_string(), ..Report::default() };
    let mut verifier = Verifier::new(KeyRing::rooted_in(root)?);
    verified(read, &mut verifier, SubjectKind::KeyRing).await?;
    if let Err(why) = vouched(verifier.ring(), mailed) {
        report.fault = Some(why.to_string());
    } else {
        report.follow(mailed.said.receipt, &verified(read, &mut verifier, SubjectKind::Erasure).await?);
    }
    Ok(report)
}

/// Whether a commands key that the root key enrolled signed it. A key that was retired since counts: what it signed before stays valid, and
/// a receipt does not say at which position it was made.
fn vouched(ring: &KeyRing, mailed: &Mailed) -> anyhow::Result<()> {
    let key = identity::parse_fingerprint(&mailed.said.signed_by).map(Digest);
    let entry = key.and_then(|key| ring.get(key_id(Role::Commands, &key)));
    let public: PublicKey =
        entry.context("the key that it names was never a commands key of this installation")?.public;
    match public.verify_as(RECEIPT_TYPE, &[mailed.document.as_bytes()], &mailed.signature) {
        Ok(()) => Ok(()),
        Err(_) => bail!("its text is not what was signed"),
    }
}

/// The believed events of a subject that is never cut, with their positions.
async fn verified(
    read: &dyn Read,
    verifier: &mut Verifier,
    kind: SubjectKind,
) -> anyhow::Result<Vec<(Sequence, Event)>> {
    let filter = Filter::exactly(&kind.into());
    let mut events = Vec::new();
    for stored in read_to_end(read, Log::Events, filter, Sequence::NONE).await? {
        let verdict = verifier.check(Log::Events, &stored, Depth::Signatures).with_context(|| {
            format!("EVENTS {} cannot be believed; run verify without --receipt", stored.sequence)
        })?;
        if let Verdict::Believed(record) = verdict {
            events.extend(record.events.into_iter().map(|event| (stored.sequence, event)));
        }
    }
    Ok(events)
}

impl Report {
    /// Follows `sys.erasure`.
    fn follow(&mut self, receipt: ReceiptId, events: &[(Sequence, Event)]) {
        let mut last = Sequence::NONE;
        for (sequence, event) in events {
            match event {
                Event::RecordsErased(tombstone) if tombstone.cause == (Cause::Account { receipt }) => {
                    self.removed += tombstone.positions.iter().map(|span| span.1).sum::<u64>();
                    (last, self.made_final) = (*sequence, None);
                }
                Event::ErasureFinished(finished) if finished.receipt == receipt => {
                    self.finished = Some(Position { log: Log::Events, sequence: *sequence });
                }
                Event::MasterKeyRotated(rotated) if self.removed > 0 && rotated.final_through >= last => {
                    self.made_final.get_or_insert(rotated.epoch);
                }
                _ => {}
            }
        }
    }

    /// Prints it. Good only if it is genuine and the erasure is finished.
    pub(crate) fn print(&self, form: Form, out: &mut impl Write) -> anyhow::Result<Exit> {
        let is_good = self.fault.is_none() && self.finished.is_some();
        let Self { receipt, fault, removed, finished, made_final } = self;
        if form == Form::Json {
            let finished = finished.map(|at| at.to_string());
            let report = json!({
                "good": is_good, "receipt": receipt, "fault": fault, "removed": removed,
                "finished": finished, "final_since_epoch": made_final,
            });
            writeln!(out, "{report:#}")?;
        } else if let Some(fault) = fault {
            writeln!(out, "receipt: {receipt}\nFAULT: {fault}\nBAD: do not trust anything in it")?;
        } else {
            writeln!(
                out,
                "receipt: {receipt}\nsignature: good, by a commands key that the root key enrolled"
            )?;
            writeln!(out, "tombstones: {removed} records")?;
            match (finished, made_final) {
                (None, _) => writeln!(out, "BAD: the log does not say that this erasure was finished")?,
                (Some(at), None) => {
                    writeln!(out, "good: finished at {at}; final once the master key is replaced")?;
                }
                (Some(at), Some(epoch)) => {
                    writeln!(out, "good: finished at {at}; final since the master key's epoch {epoch}")?;
                }
            }
        }
        Ok(if is_good { Exit::Good } else { Exit::Bad })
    }
}
