//! The role `omnirun vmm` as a program of its own, for this crate's tests.

fn main() -> std::process::ExitCode {
    omnirun_owner::main()
}
