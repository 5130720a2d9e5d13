//! What OmniRun promises, and what would fail if a promise were broken. One file per promise; `cargo test --test promises p02` runs one.
//!
//! Beside each lies a patch of at most ten lines that breaks its mechanism; `cargo x sabotage` applies each and must see red.

mod p01_sign_up;
mod p02_codes;
mod p03_usage;
mod p04_tokens;
mod p07_cookie;
mod p08_isolation;
mod p09_destruction;
mod p10_canaries;
mod p10_code;
mod p10_secret_types;
mod p14_retention;
mod p15_deletion;
mod p15_old_copies;
mod p16_rights;
mod p17_by_mail;

mod canaries;
mod long_ago;
mod opened;
mod table;
