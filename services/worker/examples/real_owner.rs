//! The role `omnirun vmm` as a program of its own, for this crate's tests with real guests.

fn main() -> std::process::ExitCode {
    omnirun_owner::main()
}
