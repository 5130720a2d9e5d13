//! Records as an operator sees them. Bytes are hidden unless their field is known to be public: a new field shows its length
//! until somebody lists it here.

use std::fmt;

use omnirun_events::codec;
use omnirun_events::envelope::Record;
use omnirun_events::event::Event;
use omnirun_events::id::CommitId;
use omnirun_events::log::{Position, Stored};
use omnirun_events::subject::Log;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, json};

use crate::text;

/// Fields whose bytes are public: keys, links and digests of images.
const PUBLIC_FIELDS: [&str; 6] = ["previous", "public", "certificate", "root", "kernel", "hash"];

/// Bytes of an id.
const ID_BYTES: usize = 16;

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
            shown["at"] = text::time(record.header.at).into();
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
        text::time(header.at),
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

/// A value as JSON with its bytes shown or hidden by the rules above. It goes through MessagePack, where bytes are not lists.
fn show(value: &impl Serialize) -> serde_json::Value {
    let decoded = rmp_serde::to_vec_named(value).ok().and_then(|bytes| rmp_serde::from_slice(&bytes).ok());
    decoded.map_or(json!("[not shown]"), |value: Value| value.shown(""))
}

fn hidden(bytes: &[u8]) -> String {
    format!("[{} bytes]", bytes.len())
}

/// Any MessagePack value.
enum Value {
    Plain(serde_json::Value),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    fn shown(self, field: &str) -> serde_json::Value {
        match self {
            Self::Plain(value) => value,
            Self::Bytes(bytes) => show_bytes(&bytes, field),
            Self::List(values) => values.into_iter().map(|value| value.shown(field)).collect(),
            Self::Map(fields) if is_sealed(&fields) => show_sealed(fields),
            Self::Map(fields) => {
                let fields = fields.into_iter().map(|(name, value)| {
                    let value = value.shown(&name);
                    (name, value)
                });
                serde_json::Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }
}

fn show_bytes(bytes: &[u8], field: &str) -> serde_json::Value {
    match <[u8; ID_BYTES]>::try_from(bytes) {
        // Every id prints alike, whatever it names.
        Ok(id) => CommitId::from_bytes(id).to_string().into(),
        Err(_) if PUBLIC_FIELDS.contains(&field) => data_encoding::HEXLOWER.encode(bytes).into(),
        Err(_) => hidden(bytes).into(),
    }
}

fn is_sealed(fields: &[(String, Value)]) -> bool {
    fields.len() == 3 && ["key", "nonce", "text"].iter().all(|name| fields.iter().any(|(n, _)| n == name))
}

fn show_sealed(fields: Vec<(String, Value)>) -> serde_json::Value {
    let mut shown = json!({});
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("key", key) => shown["sealed"] = key.shown("key"),
            ("text", Value::Bytes(text)) => shown["bytes"] = text.len().into(),
            _ => {}
        }
    }
    shown
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Plain(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Plain(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Plain(value.into()))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(value.to_vec()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Plain(serde_json::Value::Null))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Plain(serde_json::Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Value::Map(fields))
    }
}
