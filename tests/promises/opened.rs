//! What whoever holds stored records and a master key can read: every field as it is decoded, and every sealed one that opens.

use std::collections::BTreeSet;

use omnirun_commands::MasterKey;
use omnirun_events::log::Stored;
use omnirun_events::sealing::{DataKey, Sealed};
use omnirun_events::subject::Subject;
use omnirun_events::{Event, codec};
use omnirun_export::readable::{self, Rules};
use serde_json::Value;

/// Records as they read with a master key.
#[derive(Debug, Default)]
pub struct Opened {
    /// Everything that is not sealed, a line for each event.
    pub plain: Vec<String>,
    /// The sealed fields that open: their names and what they hold.
    pub sealed: BTreeSet<(String, String)>,
}

impl Opened {
    /// Decodes the records and opens what the master key and the data keys among them open.
    pub fn of(records: &[Stored], master: &MasterKey) -> Self {
        let decoded = || {
            let decoded =
                records.iter().filter_map(|stored| Some((stored, codec::decode(&stored.record).ok()?)));
            decoded.flat_map(|(stored, record)| {
                record.events.into_iter().map(move |event| (&stored.subject, event))
            })
        };
        let keys: Vec<DataKey> = decoded()
            .filter_map(|(subject, event)| match event {
                Event::DataKeyWrapped(wrapped) => {
                    master.wrapping(wrapped.epoch)?.unwrap_key(&wrapped.wrapped, subject).ok()
                }
                _ => None,
            })
            .collect();
        let mut opened = Self::default();
        for (subject, event) in decoded() {
            let mut opener = Opener { keys: &keys, subject, found: &mut opened.sealed };
            opened.plain.push(format!("{subject} {}", readable::show(&event, &mut opener)));
        }
        opened
    }

    /// What the sealed fields of this name hold.
    pub fn all(&self, field: &str) -> BTreeSet<&str> {
        let named = self.sealed.iter().filter(|(name, _)| name == field);
        named.map(|(_, text)| text.as_str()).collect()
    }
}

struct Opener<'a> {
    keys: &'a [DataKey],
    subject: &'a Subject,
    found: &'a mut BTreeSet<(String, String)>,
}

impl Rules for Opener<'_> {
    fn bytes(&mut self, _: &str, bytes: &[u8]) -> Value {
        String::from_utf8_lossy(bytes).into()
    }

    fn sealed(&mut self, name: &str, sealed: &Sealed) -> Value {
        if let Some(plain) = self.keys.iter().find_map(|key| key.open(sealed, self.subject, name).ok()) {
            self.found.insert((name.to_owned(), String::from_utf8_lossy(&plain).into_owned()));
        }
        Value::Null
    }
}
