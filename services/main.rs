//! The program: one subcommand per role. Only this crate knows all the parts; here they are put together and nowhere else.

mod process;
mod wiring;

mod roles;
mod up;

mod doctor;
mod ops;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Isolated microVM sandboxes for AI agents
#[derive(Debug, Parser)]
#[command(name = "omnirun", version)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run everything in this process on the embedded log
    Up(up::Options),
    /// Decide commands from the bus and write the log
    Commands(roles::commands::Options),
    /// Answer HTTP, over the bus
    Gateway(roles::gateway::Options),
    /// Run sandboxes on this machine
    Worker(roles::worker::Options),
    /// Close months and have accounts told of their use, over the bus
    Projector(roles::projector::Options),
    /// Hand mails from the bus to a mail server
    Mailer(roles::mailer::Options),
    /// Own one guest: started by a worker, with its orders on standard input
    #[command(hide = true)]
    Vmm,
    /// Say what this host can do for sandboxes, why, and what to change; fails where none can run
    Doctor(doctor::Options),
    /// Make keys, read the log, replay and verify it
    Ops(ops::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = process::harden() {
        return complain(&error);
    }
    match cli.role {
        // Before any runtime: the owner of a guest makes its own, small one.
        Role::Vmm => omnirun_owner::main(),
        Role::Doctor(options) => doctor::run(&options),
        Role::Ops(args) => on_runtime(async { Ok(ExitCode::from(ops::run(args).await.code())) }),
        Role::Up(options) => serve(up::run(options)),
        Role::Commands(options) => serve(roles::commands::run(options)),
        Role::Gateway(options) => serve(roles::gateway::run(options)),
        Role::Worker(options) => serve(roles::worker::run(options)),
        Role::Projector(options) => serve(roles::projector::run(options)),
        Role::Mailer(options) => serve(roles::mailer::run(options)),
    }
}

fn serve(role: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    process::start_logging();
    on_runtime(async { role.await.map(|()| ExitCode::SUCCESS) })
}

fn on_runtime(role: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into()),
    };
    runtime.block_on(role).unwrap_or_else(|error| complain(&error))
}

fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("omnirun: {error:#}");
    ExitCode::FAILURE
}
