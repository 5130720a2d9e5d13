//! `cargo x lab`: the KVM lab. QEMU emulates a processor with SVM, Debian's kernel offers `/dev/kvm` in it, and
//! `omnirun-lab` runs there as process 1. What it needs besides QEMU, `scripts/kvm-lab` has put into `.data`.
//!
//! Reading order: [`image`] (what is in the lab's initramfs and on its disk), [`machine`] (one boot), [`numbers`] (the bench's table), and here the outcome.

mod archive;
mod image;
mod machine;
mod numbers;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use image::Server;
use machine::{Clock, Machine};

/// What to run in the lab; the whole suite where nothing is said
#[derive(Args)]
pub struct Lab {
    /// Only cases whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Only one case of each kind, in about eight minutes
    #[arg(long, conflicts_with_all = ["only", "bench"])]
    core: bool,
    /// Run each so often, to find what fails seldom
    #[arg(long, default_value_t = 1, conflicts_with = "bench")]
    times: u32,
    /// Measure instead: in instructions, which are the same on every machine, and print a table; where this machine's own KVM
    /// works, another one by its wall clock
    #[arg(long, conflicts_with = "only")]
    bench: bool,
}

/// How long the whole suite may take.
const SUITE_MAX: Duration = Duration::from_secs(45 * 60);

/// Runs the suite and fails unless every case ran and passed.
pub fn run(root: &Path, options: &Lab) -> Result<()> {
    let initramfs = image::make(root, if options.bench { Server::Without } else { Server::With })?;
    println!("guest kernel: {}", image::kernel(root)?);
    println!("emulator: {}", machine::version()?);
    let mut arguments = vec!["bench".to_owned()];
    if !options.bench {
        arguments = vec!["cases".to_owned(), options.times.to_string()];
        arguments.extend(if options.core { Some("core".to_owned()) } else { options.only.clone() });
    }
    let clock = if options.bench { Clock::Instructions } else { Clock::Host };
    let disk = if options.bench { None } else { Some(image::make_disk(root)?) };
    let disk = disk.as_deref();
    let lines = Machine { root, initramfs: &initramfs, disk, clock, limit: SUITE_MAX }.run(&arguments)?;
    verdict(&lines)?;
    if options.bench {
        numbers::print("In the lab, where a millisecond is a million instructions", &lines);
        return measure_here(root);
    }
    Ok(())
}

/// The same by the wall clock of this machine, where its KVM works.
fn measure_here(root: &Path) -> Result<()> {
    let place = image::make_directory(root)?;
    let mut bench = Command::new(place.join("init"));
    let said =
        bench.arg("native").arg(&place).stderr(Stdio::inherit()).output().context("cannot run the bench")?;
    let said = String::from_utf8_lossy(&said.stdout);
    let lines: Vec<_> =
        said.lines().filter_map(|line| line.strip_prefix("LAB ")).map(str::to_owned).collect();
    if let Some(why) = lines.iter().find_map(|line| line.strip_prefix("unmeasured ")) {
        println!("\nBy this machine's own clock nothing was measured: {why}");
        return Ok(());
    }
    verdict(&lines)?;
    numbers::print("On this machine, by its wall clock", &lines);
    Ok(())
}

/// Success only where the last line says that all of at least one case passed.
fn verdict(lines: &[String]) -> Result<()> {
    if let Some(broken) = lines.iter().find(|line| line.starts_with("broken ")) {
        bail!("the lab could not run: {broken}");
    }
    let counted = lines.iter().find_map(|line| line.strip_prefix("ran ")?.split_once(" of "));
    let Some((passed, total)) = counted else { bail!("the lab ended before its suite did") };
    ensure!(passed == total && total != "0", "{passed} of {total} cases passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_suite_that_ran_and_passed_whole_is_a_success() {
        let told = |text: &str| verdict(&text.lines().map(str::to_owned).collect::<Vec<_>>()).is_ok();
        assert!(told("up x\npass a\nran 1 of 1"));
        for bad in ["", "up x\npass a", "ran 0 of 0", "ran 1 of 2", "broken no kvm\nran 1 of 1"] {
            assert!(!told(bad), "{bad}");
        }
    }
}
