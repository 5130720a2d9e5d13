//! What operators do at a terminal: make the keys, read the log, and check it.
//!
//! Three rules for a debugger. It changes nothing, but for `init`, and `keys` and `account`, which ask the commands service. It does not lie: every command says which list it prints, for in
//! a damaged system they differ: `stored` is what the store holds, `believed` what passed every check, `ignored` what is well
//! made but was said by somebody who may not say it. And it works while everything else does not: on the store alone, with no service up.
//!
//! Reading order: [`command`] (what can be asked), [`context`] (what is needed of the world), `dispatch` (who does it), [`identity`] (the
//! keys of an installation), then one file per command, and [`socket`], through which they read while `omnirun up` holds the store. [`doctor`] is about the host, and needs neither.

pub mod command;

pub mod context;

mod dispatch;

mod exit;

pub mod identity;

pub mod doctor;

mod account;
mod bills;
mod erase;
mod exported;
mod host;
mod keys;
mod receipt;
mod replay;
mod retention;
mod show;
mod statement;
mod tail;
mod verify;

mod shown;
mod text;

pub mod socket;

pub use command::{OpsArgs, OpsCommand};
pub use context::{Context, Opened, Running};
pub use dispatch::run;
pub use exit::Exit;
pub use identity::Identity;
pub use socket::{CommandsSlot, OpsServer, SocketRead, View};
