//! Old versions become current ones here, once, as they are decoded; nothing else knows that they existed.

use std::borrow::Cow;

use crate::event::EventName;

/// The event in its current version. Every event is at its first version so far, so each passes through as it is stored;
/// the golden files fail the build of whoever changes a body without adding a version and its step here.
pub fn to_current<'a>(name: &'a EventName, body: &'a [u8]) -> (Cow<'a, EventName>, Cow<'a, [u8]>) {
    (Cow::Borrowed(name), Cow::Borrowed(body))
}
