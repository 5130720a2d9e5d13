//! The receipt: what the person keeps. Signed by the commands key, so that whoever has the log and the root key's fingerprint can check it.
//!
//! It is mailed while the address can still be opened, and so before anything is destroyed: it says what will be, by when, and how to see that it
//! was.
//!
//! The signature is Ed25519 over the DSSE encoding of the document's text, first brace to last, with the type [`RECEIPT_TYPE`].

use std::fmt::Write as _;

use omnirun_billing::calendar::Date;
use omnirun_commands_api::command::RECEIPT_TYPE;
use omnirun_events::id::AccountId;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Sequence, read_to_end};
use omnirun_events::subject::{Log, Slot};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::accounts::Closing;

use super::bury::filter_of;
use crate::failure::Failure;
use crate::service::CommandService;

/// Within this the master key is replaced, which makes copies of wrapped keys worthless: the replacement runs every night.
const FINAL_WITHIN: Millis = Millis(48 * 3600 * 1000);

/// What a receipt cannot prove, a sentence each.
const OUTSIDE: [&str; 5] = [
    "spare cells of the installation's SSDs",
    "the memory of running processes, until they are restarted",
    "backups and free blocks, until the master key is replaced",
    "mail that was sent before",
    "what you yourself sent elsewhere",
];

impl CommandService {
    /// The receipt for the owner of a closing account, with its signature.
    pub(super) async fn receipt(&self, account: AccountId, closing: &Closing) -> Result<String, Failure> {
        let meters = Slot::all().map(Log::Usage);
        let mut counts = [0, 0, 0];
        for (place, log) in [(0, Log::Events), (1, Log::Keys)].into_iter().chain(meters.map(|log| (2, log))) {
            let filter = filter_of(log, account);
            let all = read_to_end(self.writer.reader.as_ref(), log, filter, Sequence::NONE).await?;
            counts[place] += all.len();
        }
        let root = self.writer.directory.view(|_, verifier| verifier.ring().root());
        let document = document(closing, (self.clock)(), counts, &root, &self.writer.signer.public());
        let signature = self.writer.signer.sign_as(RECEIPT_TYPE, &[document.as_bytes()]);
        Ok(format!("{document}\n\nSignature (Ed25519, DSSE type {RECEIPT_TYPE}):\n{}", in_lines(&signature)))
    }
}

fn document(
    closing: &Closing,
    now: Timestamp,
    [records, keys, meters]: [usize; 3],
    root: &Digest,
    key: &Digest,
) -> String {
    let mut outside = String::new();
    for (index, what) in OUTSIDE.iter().enumerate() {
        let comma = if index + 1 < OUTSIDE.len() { "," } else { "" };
        writeln!(outside, "    \"{what}\"{comma}").expect("a string takes everything");
    }
    let Closing { receipt, since, .. } = closing;
    let (asked, issued, last) = (since.0, now.0, day(now.after(FINAL_WITHIN)));
    format!(
        "{{\n  \"receipt\": \"{receipt}\",\n  \"asked_at_ms\": {asked},\n  \"issued_at_ms\": {issued},\n  \
         \"state\": \"closed, being erased\",\n  \"to_remove\": {{\"records\": {records}, \"meters\": {meters}}},\n  \
         \"keys_to_destroy\": {keys},\n  \"final_by\": \"{last}\",\n  \"seen_by\":\n    \
         \"omnirun ops verify --receipt FILE, asked of this installation\",\n  \"outside_the_proof\": [\n{outside}  ],\n  \"root_key\":\n    \
         \"{root}\",\n  \"signed_by\":\n    \"{key}\"\n}}"
    )
}

/// The day as people write it, in UTC.
fn day(at: Timestamp) -> String {
    let Date { year, month, day } = Date::of(at);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The bytes in hexadecimal, 32 to a line.
fn in_lines(signature: &[u8; 64]) -> String {
    let half = |from: usize| Digest(signature[from..from + 32].try_into().expect("two halves of 32 bytes"));
    format!("{}\n{}", half(0), half(32))
}

#[cfg(test)]
mod tests {
    use omnirun_events::id::ReceiptId;

    use super::*;

    #[test]
    fn a_receipt_is_plain_text_in_short_lines_and_says_what_it_does_not_prove() {
        let closing = Closing {
            receipt: ReceiptId::from_bytes([7; 16]),
            since: Timestamp(1_795_000_000_000),
            quiet_at: None,
            is_receipt_issued: false,
        };
        let key = Digest([0xab; 32]);
        let text = document(&closing, Timestamp(1_795_000_100_000), [12, 2, 7], &key, &key);
        assert!(text.lines().all(|line| line.len() <= 78) && text.is_ascii(), "{text}");
        for what in OUTSIDE {
            assert!(text.contains(what), "{what}");
        }
        assert!(text.contains("\"final_by\": \"2026-11-20\""), "{text}");
        assert!(text.contains("being erased") && text.contains("\"keys_to_destroy\": 2"), "{text}");
        assert!(!text.contains("destroyed"), "nothing is yet: {text}");
        assert!(text.starts_with('{') && text.ends_with('}'));
    }
}
