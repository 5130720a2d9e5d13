//! The routes, one file per family. A handler checks what was sent, asks once, and shapes the answer; it decides nothing.

pub(crate) mod account;
pub(crate) mod billing;
pub(crate) mod close;
pub(crate) mod export;
pub(crate) mod sessions;
pub(crate) mod sign_in;
pub(crate) mod statements;
pub(crate) mod tokens;
pub(crate) mod usage;

pub(crate) mod sandboxes;

pub(crate) mod code;
pub(crate) mod commands;
pub(crate) mod files;
pub(crate) mod upload;

pub(crate) mod service;
