//! What use costs and what a plan allows: plans as data, calendar months, rating. Pure: no clock, no files.
//!
//! Reading order: [`money`], [`calendar`], [`plans`], [`rating`]. Deciding about a request is the commands service's; metering is
//! the worker's. Statements are not here.

pub mod money;

pub mod calendar;
pub mod plans;

pub mod rating;

pub use calendar::Period;
pub use money::MicroCents;
pub use plans::{Plan, Plans, PlansError};
pub use rating::{Bill, rate, used_in};
