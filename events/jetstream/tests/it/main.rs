//! The store against real servers; one program, so that it links once.

mod common;
mod conformance;
mod details;
mod faults;
mod permissions;
mod streams;
