//! The gateway over real sockets: a real log and read models, a worker that speaks TLS and HTTP/2, and a commands service that appends what
//! it is told to.

mod cable;
mod call;
mod worker;
mod world;

mod account;
mod bad_input;
mod data_path;
mod double;
mod export;
mod log_lost;
mod rights;
mod sandboxes;
mod service;
mod sessions;
mod sign_in;
mod statements;
mod too_large;
