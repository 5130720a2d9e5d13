//! Commands: starting them, what they print, and the table of them.
//!
//! Foreground and background commands are the same thing; a foreground request starts one and waits for its end.

mod collect;
mod output;
mod pieces;
mod spawn;
mod table;

pub use collect::{Framing, limit, run, stream};
pub use output::Keep;
pub use spawn::{ARGUMENT_BYTES_MAX, Input, Program, Spawn, shell, start};
pub use table::Commands;
