//! Real servers for tests: each test starts its own on a free port of the loopback interface, with its own directory.
//!
//! Nothing here knows what OmniRun stores or says; this is only how its surroundings are started, hurt and stopped.

pub mod nats;
mod wait;

pub use nats::NatsServer;
pub use wait::wait_until;
