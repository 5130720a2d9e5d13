//! Canaries: texts that are put into every input of the API, one for each place, and looked for in whatever is left of it.

pub mod walk;

use std::path::{Path, PathBuf};

use anyhow::Result;
use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use omnirun_test_support::world::files_holding;

/// What every canary begins with. Lower case, since addresses are made so; letters and digits, since an idempotency key is.
const MARK: &str = "qzcanaryvk7";

/// The canaries that were put somewhere, and where.
#[derive(Default)]
pub struct Canaries {
    places: Vec<String>,
}

impl Canaries {
    /// A canary for a place that has none yet.
    pub fn at(&mut self, place: impl Into<String>) -> String {
        self.places.push(place.into());
        format!("{MARK}n{}e", self.places.len() - 1)
    }

    /// Where the canaries in a text were put; "somewhere" for one that is cut.
    pub fn places_in(&self, text: &str) -> Vec<&str> {
        let place = |rest: &str| {
            let number = rest.strip_prefix('n')?.split_once('e')?.0;
            self.places.get(number.parse::<usize>().ok()?).map(String::as_str)
        };
        let rests = text.match_indices(MARK).map(|(at, mark)| &text[at + mark.len()..]);
        rests.map(|rest| place(rest).unwrap_or("somewhere")).collect()
    }
}

/// The forms in which a canary may be hidden in bytes: as it is, in UTF-16, in hexadecimal, and in base64 wherever it begins.
pub fn forms() -> Vec<Vec<u8>> {
    let utf16 = MARK.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hex = [HEXLOWER.encode(MARK.as_bytes()), HEXUPPER.encode(MARK.as_bytes())];
    let base64 = (0..3).map(|before| {
        let text = BASE64.encode(&[&b"\0\0"[..before], MARK.as_bytes()].concat());
        // The characters at both ends hold bits of their neighbours.
        text.trim_end_matches('=')[2 * before..].split_at(13).0.to_owned()
    });
    let texts = hex.into_iter().chain(base64).map(String::into_bytes);
    [MARK.as_bytes().to_vec(), utf16].into_iter().chain(texts).collect()
}

/// Whether there is a canary in these bytes, in any of its forms.
pub fn is_in(bytes: &[u8]) -> bool {
    forms().iter().any(|form| bytes.windows(form.len()).any(|window| window == form.as_slice()))
}

/// The files below a directory with a canary in any of its forms.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for form in forms() {
        found.extend(files_holding(directory, &form)?);
    }
    Ok(found)
}

#[test]
fn a_canary_is_found_in_every_form_and_where_it_was_put_is_known() {
    let mut canaries = Canaries::default();
    let (one, two) = (canaries.at("one"), canaries.at("two"));
    assert_eq!(canaries.places_in(&format!("{two}, {one} and {MARK}")), ["two", "one", "somewhere"]);
    for before in ["", "x", "xy", "xyz", "some words before it: "] {
        let text = format!("{before}{two} and more");
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(is_in(text.as_bytes()) && is_in(&utf16), "{text}");
        for hidden in [
            BASE64.encode(text.as_bytes()),
            HEXLOWER.encode(text.as_bytes()),
            HEXUPPER.encode(text.as_bytes()),
        ] {
            assert!(is_in(hidden.as_bytes()), "{hidden}");
        }
    }
    assert!(!is_in(b"qzcanaryvk"));
}
