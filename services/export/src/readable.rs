//! Stored values as JSON for people. Bytes become text by rules that the reader of the JSON chooses: an operator sees less than the owner.

use std::fmt;

use omnirun_events::id::CommitId;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, json};

/// Bytes of an id.
const ID_BYTES: usize = 16;

/// What becomes of that which JSON has no form for.
pub trait Rules {
    /// Bytes of a field that are no id.
    fn bytes(&mut self, field: &str, bytes: &[u8]) -> serde_json::Value;

    /// A sealed value of a field.
    fn sealed(&mut self, field: &str, sealed: &Sealed) -> serde_json::Value;
}

/// A value as JSON. It goes through MessagePack, where bytes are not lists.
pub fn show(value: &impl Serialize, rules: &mut impl Rules) -> serde_json::Value {
    let decoded = rmp_serde::to_vec_named(value).ok().and_then(|bytes| rmp_serde::from_slice(&bytes).ok());
    decoded.map_or(json!("[not shown]"), |value: Value| value.shown("", rules))
}

/// Any MessagePack value.
enum Value {
    Plain(serde_json::Value),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    fn shown(self, field: &str, rules: &mut impl Rules) -> serde_json::Value {
        match self {
            Self::Plain(value) => value,
            // Every id prints alike, whatever it names.
            Self::Bytes(bytes) => match <[u8; ID_BYTES]>::try_from(bytes.as_slice()) {
                Ok(id) => CommitId::from_bytes(id).to_string().into(),
                Err(_) => rules.bytes(field, &bytes),
            },
            Self::List(values) => values.into_iter().map(|value| value.shown(field, rules)).collect(),
            Self::Map(fields) => match as_sealed(&fields) {
                Some(sealed) => rules.sealed(field, &sealed),
                None => show_map(fields, rules),
            },
        }
    }
}

fn show_map(fields: Vec<(String, Value)>, rules: &mut impl Rules) -> serde_json::Value {
    let fields = fields.into_iter().map(|(name, value)| {
        let value = value.shown(&name, rules);
        (name, value)
    });
    serde_json::Value::Object(fields.collect::<Map<_, _>>())
}

/// The sealed value that these are the fields of.
fn as_sealed(fields: &[(String, Value)]) -> Option<Sealed> {
    let of = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    match (of("key")?, of("nonce")?, of("text")?) {
        (key, Value::Bytes(nonce), Value::Bytes(text)) if fields.len() == 3 => {
            Some(Sealed { key: as_label(key)?, nonce: nonce.as_slice().try_into().ok()?, text: text.clone() })
        }
        _ => None,
    }
}

fn as_label(value: &Value) -> Option<DataKeyLabel> {
    let json = match value {
        Value::Plain(name) => name.clone(),
        Value::Map(fields) => {
            let [(name, Value::Plain(number))] = fields.as_slice() else { return None };
            json!({ name: number })
        }
        _ => return None,
    };
    serde_json::from_value(json).ok()
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
