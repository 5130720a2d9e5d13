//! The projector: looks at the read models that time acts on, and asks the commands service for what is due. It holds no key and
//! appends nothing; whatever it asks for twice is done once.
//!
//! Reading order: [`bills`] (statements and notices). What is due is decided in `projections/billing`, what is written in the commands
//! service.

pub mod bills;

pub use bills::{Bills, LookError, Looked};
