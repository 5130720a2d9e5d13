//! Handling: what each family needs from the world around its decision. The decisions are in [`crate::decide`].

mod close;
mod fields;
mod request_code;
mod sandboxes;
mod tokens;
mod verify_code;

pub(crate) use verify_code::Presented;
