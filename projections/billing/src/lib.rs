//! What use costs and what a plan allows: plans as data, calendar months, rating. Pure: no clock, no files.
//!
//! Reading order: [`calendar`], [`plans`], [`rating`]. Deciding about a request is the commands service's; metering is the worker's.

pub mod calendar;
pub mod plans;

pub mod rating;

pub use calendar::Period;
pub use plans::{Plan, Plans, PlansError, Price};
pub use rating::{Bill, billed, rate};
