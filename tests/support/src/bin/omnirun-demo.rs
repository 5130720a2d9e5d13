//! `scripts/up --demo`: the main job over the real program, as a user would do it, with each step's time; then the operator's part.
//!
//! Mail goes to an SMTP server of its own on loopback that keeps it in memory. The data directory is a temporary one. A program of this
//! small crate, because building `cargo x` takes a newcomer a minute and a half longer.

use std::time::Instant;

use anyhow::{Result, ensure};
use omnirun_test_support::demo::Demo;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::World;

#[tokio::main]
async fn main() -> Result<()> {
    let mut tell = |line: &str| println!("  {line}");
    let started = Instant::now();
    let mut world = World::start(&[]).await?;
    println!("OmniRun is up at http://{} ({} ms)", world.up.address, started.elapsed().as_millis());
    let client = world.up.client();
    let mut demo = Demo::default();
    demo.run(&client, &mut world.smtp, &mut tell).await?;

    let root = world.data().join("root.pub");
    let root = root.to_string_lossy();
    for (step, arguments) in [
        ("verify", vec!["verify", "--root-key", &root]),
        ("replay directory", vec!["replay", "directory"]),
        ("replay usage", vec!["replay", "usage"]),
    ] {
        let since = Instant::now();
        let (exit, text) = ops(&world.data(), &arguments).await?;
        ensure!(exit == 0, "omnirun ops {step} exits with {exit}: {text}");
        let last = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
        tell(&format!("{step:<22} {:>7} ms   {last}", since.elapsed().as_millis()));
    }
    world.close().await?;
    println!("The main job went well in {:.1} s.", started.elapsed().as_secs_f64());
    Ok(())
}
