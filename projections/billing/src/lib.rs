//! What use costs and what a plan allows: plans as data, calendar months, rating, the ledger of every account. Pure: no clock, no files.
//!
//! Reading order: [`calendar`], [`plans`], [`rating`], then [`ledger`] (the fold), [`statement`] and [`due`] (what follows from it).
//! Deciding about a request is the commands service's, and so is writing a statement down; metering is the worker's.

pub mod calendar;
pub mod plans;

pub mod rating;

pub mod ledger;

pub mod statement;

pub mod due;

pub use calendar::Period;
pub use ledger::{Billing, Closed, Ledger};
pub use plans::{Plan, Plans, PlansError, Price};
pub use rating::{Bill, rate};
