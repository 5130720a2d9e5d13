//! Texts for and from an operator: positions, fingerprints, accounts. One place, so that every command prints and reads them alike.

use std::path::Path;

use anyhow::{Context as _, bail};
use omnirun_commands_api::command::{Personal, Whose};
use omnirun_events::billing::Correction;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Position, Sequence};
use omnirun_events::subject::Log;
use omnirun_events::unit::Timestamp;

use crate::identity;

/// A log by the name that it prints with, in either case.
pub(crate) fn parse_log(text: &str) -> Result<Log, String> {
    Log::kept()
        .chain([Log::Auth])
        .find(|log| log.to_string().eq_ignore_ascii_case(text))
        .ok_or_else(|| "a log is EVENTS, KEYS, AUTH or USAGE_00 to USAGE_13".to_owned())
}

/// A position: `12` in EVENTS, or with its log, as `USAGE_03:12`.
pub(crate) fn parse_position(text: &str) -> Result<Position, String> {
    let (log, number) = match text.split_once([':', ' ', '/']) {
        Some((log, number)) => (parse_log(log)?, number),
        None => (Log::Events, text),
    };
    let sequence = number.parse().map(Sequence).map_err(|_| "a position is 12 or USAGE_03:12".to_owned())?;
    if sequence == Sequence::NONE {
        return Err("positions count from 1".to_owned());
    }
    Ok(Position { log, sequence })
}

/// An account by its address, or by its id. What is wrong with it is said without repeating it.
pub(crate) fn parse_whose(text: &str) -> Result<Whose, String> {
    if text.contains('@') {
        return Ok(Whose::Address(Personal::new(text)));
    }
    text.parse()
        .map(Whose::Account)
        .map_err(|_| "an account is an id of 26 characters, or an address".to_owned())
}

/// The root key that an operator names: its fingerprint, or a file that holds it.
pub(crate) fn root_key(text: &str) -> anyhow::Result<Digest> {
    if let Some(bytes) = identity::parse_fingerprint(text) {
        return Ok(Digest(bytes));
    }
    let path = Path::new(text);
    let held = std::fs::read_to_string(path).with_context(|| {
        format!("--root-key is neither 64 hexadecimal digits nor a readable file: {text}")
    })?;
    match identity::parse_fingerprint(&held) {
        Some(bytes) => Ok(Digest(bytes)),
        None => bail!("{text} does not hold a fingerprint of 64 hexadecimal digits"),
    }
}

/// The root key that was named, or the one that is pinned.
pub(crate) fn root_key_or_pinned(named: Option<String>, data: &Path) -> anyhow::Result<Digest> {
    match named {
        Some(text) => root_key(&text),
        None => Ok(identity::pinned_root(data)?),
    }
}

/// A digest of 64 hexadecimal digits, as it prints.
pub(crate) fn parse_digest(text: &str) -> Result<Digest, String> {
    identity::parse_fingerprint(text).map(Digest).ok_or_else(|| "a hash is 64 hexadecimal digits".to_owned())
}

/// The first moment of a day, such as `2026-11-23`.
pub(crate) fn parse_day(text: &str) -> Result<Timestamp, String> {
    let at = Timestamp::parse_rfc3339(text).filter(|at| at.day() == text);
    at.ok_or_else(|| "a day is such as 2026-11-23".to_owned())
}

/// Which way a correction goes.
pub(crate) fn parse_correction(text: &str) -> Result<Correction, String> {
    match text {
        "credit" => Ok(Correction::Credit),
        "charge" => Ok(Correction::Charge),
        _ => Err("a correction is a credit or a charge".to_owned()),
    }
}

/// An error and everything behind it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text = format!("{text}: {next}");
        source = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_names_its_log_or_is_in_events() {
        assert_eq!(parse_position("12").map(|at| at.to_string()), Ok("EVENTS 12".to_owned()));
        assert_eq!(parse_position("usage_03:7").map(|at| at.to_string()), Ok("USAGE_03 7".to_owned()));
        for text in ["", "0", "x", "USAGE_14:1", "EVENTS:"] {
            assert!(parse_position(text).is_err(), "{text}");
        }
    }
}
