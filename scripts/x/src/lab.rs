//! `cargo x lab`: the KVM lab. QEMU emulates a processor with SVM, Debian's kernel offers `/dev/kvm` in it, and
//! `omnirun-lab` runs there as process 1. What it needs besides QEMU, `scripts/kvm-lab` has put into `.data`.
//!
//! Reading order: [`image`] (what is in the lab's initramfs), [`machine`] (one boot), [`numbers`] (the bench's table), and here the outcome.

mod archive;
mod image;
mod machine;
mod numbers;

use std::{path::Path, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::Args;

use image::Server;
use machine::{Clock, Machine};

/// What to run in the lab; the whole suite where nothing is said
#[derive(Args)]
pub struct Lab {
    /// Only cases whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Only one case of each kind, in less than five minutes
    #[arg(long, conflicts_with_all = ["only", "bench"])]
    core: bool,
    /// Run each so often, to find what fails seldom
    #[arg(long, default_value_t = 1, conflicts_with = "bench")]
    times: u32,
    /// Measure instead: in instructions, which are the same on every machine, and print a table
    #[arg(long, conflicts_with = "only")]
    bench: bool,
}

/// How long the whole suite may take.
const SUITE_MAX: Duration = Duration::from_secs(45 * 60);

/// Runs the suite and fails unless every case ran and passed.
pub fn run(root: &Path, options: &Lab) -> Result<()> {
    let initramfs = image::make(root, if options.bench { Server::Without } else { Server::With })?;
    println!("guest kernel {}", image::kernel_digest(root)?);
    let mut arguments = vec!["bench".to_owned()];
    if !options.bench {
        arguments = vec!["cases".to_owned(), options.times.to_string()];
        arguments.extend(if options.core { Some("core".to_owned()) } else { options.only.clone() });
    }
    let clock = if options.bench { Clock::Instructions } else { Clock::Host };
    let lines = Machine { root, initramfs: &initramfs, clock, limit: SUITE_MAX }.run(&arguments)?;
    if options.bench {
        numbers::print(&lines);
    }
    verdict(&lines)
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
