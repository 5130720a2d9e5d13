//! Old versions become current ones here, once, as they are decoded; nothing else knows that they existed.

use std::borrow::Cow;

use crate::event::EventName;

/// The event in its current version. Every event is at its first version so far, so each passes through as it is stored;
/// the golden files fail the build of whoever changes a body without adding a version and its step here.
pub fn to_current(name: EventName, body: Cow<'_, [u8]>) -> (EventName, Cow<'_, [u8]>) {
    (name, body)
}
