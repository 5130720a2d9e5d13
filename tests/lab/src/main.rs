//! What runs inside the KVM lab: process 1 of a machine that QEMU emulates with SVM, in which Debian's kernel offers a
//! `/dev/kvm` that works. `cargo x lab` starts that machine and reads what is printed here on its serial port.
//!
//! Reading order: [`init`], then [`cases`] and what they use: [`owner`] (an owner process and its guest). [`bench`] measures,
//! with `omnirun-bare` as the program that it starts; [`hostile`] is a guest that breaks the rules; [`limit`] sees that
//! nothing hangs. [`native`] runs the bench on the machine itself.

mod bench;
mod cases;
mod hostile;
mod init;
mod limit;
mod native;
mod owner;
mod tap;

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [word, root] = &arguments[..] else { return misused() };
    if word != "native" {
        return misused();
    }
    match native::run(Path::new(root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("LAB broken {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn misused() -> ExitCode {
    eprintln!("omnirun-lab: runs as process 1 of the lab; start it with scripts/kvm-lab");
    ExitCode::from(2)
}
