//! The gateway: the HTTP API that agents, programs and browsers speak.
//!
//! It decides nothing. What changes something is a command to the commands service; what is read comes from followed read models; what
//! belongs into a guest goes over the data path to the worker and is neither stored nor logged. It appends to no log.
//!
//! Reading order: [`config`], [`gateway`], then a request's way: [`serve`], [`router`], [`observe`], [`auth`] with the table in [`access`],
//! one file per family in `routes`, and either [`ask`] (commands) or [`data_path`] (guests). `sight` watches over all: without the log,
//! credentials are good for a while only.

pub mod config;
pub mod gateway;

pub mod router;
pub mod serve;

pub mod access;
pub mod auth;
mod client;
mod head;
pub mod observe;
pub mod token;

pub mod error;
pub mod extract;

pub mod ask;
pub mod data_path;
mod routes;
mod sight;

pub use config::Config;
pub use gateway::{Gateway, Mailbox, MicroCents, Parts, Pricing, ShownMail};
