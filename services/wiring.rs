//! What the roles have in common when they are put together: options, connections, read models, signals. No role's own order of
//! starting and stopping is here; that is in `up` and `roles`.

pub mod bus;
pub mod counted;
pub mod host;
pub mod metrics;
pub mod nkeys;
pub mod plans;
pub mod run;
pub mod smtp;
pub mod state;
pub mod views;
pub mod web;
