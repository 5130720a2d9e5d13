//! Workers against a log in memory and real processes: owner processes without guests where many are needed, QEMU where it matters.

mod bed;
mod client;
mod cut_off;

mod claims;
mod data_path;
mod life;
mod outbox;
mod pause;
mod restart;
mod spare;
mod spoiled;

mod real;
