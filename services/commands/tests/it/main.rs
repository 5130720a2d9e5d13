//! The service over a real log and a real followed directory, as users and workers meet it. One binary, so that it links once.

mod support;

mod admission;
mod asked_again;
mod belief;
mod billing;
mod bus;
mod change_email;
mod deciders;
mod erasure;
mod idempotency;
mod keys;
mod lost_host;
mod pause;
mod races;
mod recorder;
mod retention;
mod retention_spoiled;
mod sandboxes;
mod sign_in;
mod sign_up;
mod tokens;
