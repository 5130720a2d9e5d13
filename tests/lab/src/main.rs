//! What runs inside the KVM lab: process 1 of a machine that QEMU emulates with SVM, in which Debian's kernel offers a
//! `/dev/kvm` that works. `cargo x lab` starts that machine and reads what is printed here on its serial port.
//!
//! Reading order: [`init`], then [`cases`] and what they use: [`owner`] (an owner process and its guest). [`bench`] measures,
//! with `omnirun-bare` as the program that it starts; [`hostile`] is a guest that breaks the rules; [`limit`] sees that
//! nothing hangs.

mod bench;
mod cases;
mod hostile;
mod init;
mod limit;
mod owner;
mod tap;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    eprintln!("omnirun-lab: runs as process 1 of the lab; start it with scripts/kvm-lab");
    ExitCode::from(2)
}
