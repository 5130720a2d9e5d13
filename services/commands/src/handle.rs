//! Handling: what each family needs from the world around its decision. The decisions are in [`crate::decide`].

mod prove;
mod send_code;

mod request_code;
mod verify_code;

mod billing;
mod change_email;
mod close;
mod fields;
mod lose_host;
mod operator;
mod sandboxes;
mod silent_hosts;
mod tokens;

pub(crate) use prove::Presented;
