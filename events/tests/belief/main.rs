//! What is stored, who is believed, and that nothing else is: golden bytes, roles, tampering, keys.

mod sample;

mod erasure;
mod golden;
mod keys;
mod passing;
mod roles;
mod round_trip;
mod tampering;
