//! What is said over a guest's agent port: routes, message types and refusals of the agent's HTTP/2 API.
//!
//! Reading order: [`route`], [`window`], [`control`], [`command`], [`file`], [`error`]. Names and shapes of what users see are
//! those of the public API, so that a gateway relays them as they are. No code that talks, on either side, is here.

pub mod route;

pub mod window;

pub mod control;

pub mod command;

pub mod file;

pub mod error;

pub mod private;

pub mod unit;

pub use command::{CommandState, Language, Outcome, RunCode, StartCommand, Started, Stdin, StreamLine};
pub use control::{Health, Metrics, Personalise, Personalised, SetClock, SetEnvs, Stage};
pub use error::Refusal;
pub use file::{Content, Entry, Exists, Place, Rename, WriteFile};
pub use private::Private;
pub use unit::{Seconds, Timestamp, UnixMillis};
