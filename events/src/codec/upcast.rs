//! Old versions become current ones here, once, as they are decoded; nothing else knows that they existed.

use std::borrow::Cow;

use crate::event::EventName;

/// The event in its current version; the golden files fail the build of whoever changes a body without adding a version and its step here.
pub fn to_current<'a>(name: &'a EventName, body: &'a [u8]) -> (Cow<'a, EventName>, Cow<'a, [u8]>) {
    let version = match (&*name.0, name.1) {
        // The day that version 1 names is no epoch of a master key: the code is refused and its user asks for another. What version 1
        // does not say has a default.
        ("challenge.issued", 1) => 2,
        // Version 2 may name a reason more.
        ("sandbox.stopped", 1) => 2,
        // Version 1 does not say what it was computed from.
        ("billing.statement_closed", 1) => 2,
        // Version 1 does not say what was destroyed before its epoch began, and so makes nothing final.
        ("master_key.rotated", 1) => 2,
        _ => return (Cow::Borrowed(name), Cow::Borrowed(body)),
    };
    (Cow::Owned(EventName(name.0.clone(), version)), Cow::Borrowed(body))
}
