//! Records as an operator sees them. Bytes are hidden unless their field is known to be public: a new field shows its length
//! until somebody lists it here.

use omnirun_events::codec;
use omnirun_events::envelope::Record;
use omnirun_events::event::Event;
use omnirun_events::log::{Position, Stored};
use omnirun_events::sealing::Sealed;
use omnirun_events::subject::Log;
use omnirun_export::readable::{self, Rules};
use serde::Serialize;
use serde_json::json;

use crate::text;

/// Fields whose bytes are public: keys, links and digests of images.
const PUBLIC_FIELDS: [&str; 6] = ["previous", "public", "certificate", "root", "kernel", "hash"];

/// A stored record as one JSON object; one that cannot be decoded says why.
pub(crate) fn as_json(log: Log, stored: &Stored) -> serde_json::Value {
    let mut shown = json!({
        "list": "stored",
        "log": log.to_string(),
        "position": stored.sequence.0,
        "subject": stored.subject.as_str(),
        "bytes": stored.record.len(),
    });
    match codec::decode(&stored.record) {
        Ok(record) => {
            shown["at"] = record.header.at.rfc3339().into();
            shown["header"] = show(&record.header);
            shown["hash"] = record.hash().to_string().into();
            shown["events"] = events(&record).into();
        }
        Err(error) => shown["undecodable"] = text::chain(&error).into(),
    }
    shown
}

/// A stored record in one line of words: position, time, subject, number, actor, events, key.
pub(crate) fn as_line(log: Log, stored: &Stored) -> String {
    let at = Position { log, sequence: stored.sequence };
    let record = match codec::decode(&stored.record) {
        Ok(record) => record,
        Err(error) => return format!("{at}  {}  undecodable: {}", stored.subject, text::chain(&error)),
    };
    let header = &record.header;
    let names: Vec<_> = header.events.iter().map(|name| format!("{}/{}", name.0, name.1)).collect();
    format!(
        "{at}  {}  {}  v{}  by {}  {}  key {}",
        header.at.rfc3339(),
        stored.subject,
        header.version,
        show(&header.actor).to_string().replace(['"', '{', '}'], ""),
        names.join(" "),
        header.key,
    )
}

fn events(record: &Record) -> Vec<serde_json::Value> {
    let names = record.header.events.iter().zip(&record.events);
    names
        .map(|(name, event)| match event {
            Event::Unknown { body, .. } => {
                json!({"event": name.0, "version": name.1, "unknown_to_this_build": hidden(body)})
            }
            known => json!({"event": name.0, "version": name.1, "body": show(known)}),
        })
        .collect()
}

/// A value as JSON with its bytes shown or hidden by the rules above.
fn show(value: &impl Serialize) -> serde_json::Value {
    readable::show(value, &mut Operator)
}

/// What an operator sees.
struct Operator;

impl Rules for Operator {
    fn bytes(&mut self, field: &str, bytes: &[u8]) -> serde_json::Value {
        match PUBLIC_FIELDS.contains(&field) {
            true => data_encoding::HEXLOWER.encode(bytes).into(),
            false => hidden(bytes).into(),
        }
    }

    fn sealed(&mut self, _: &str, sealed: &Sealed) -> serde_json::Value {
        json!({"sealed": sealed.key, "bytes": sealed.text.len()})
    }
}

fn hidden(bytes: &[u8]) -> String {
    format!("[{} bytes]", bytes.len())
}
