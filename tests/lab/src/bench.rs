//! The numbers: each of them three times, a line each, for `cargo x lab --bench` to put into a table.
//!
//! Times are of the lab's clock. Where that counts instructions, a millisecond is a million of them.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use omnirun_vmm_api::owner::StartFrom;
use rustix::fs::{Mode, mkfifoat};

use crate::{
    cases::snapshot,
    limit,
    owner::{self, Owner},
};

const RUNS: usize = 3;
const CLONES: usize = 8;
/// Memory that comes and goes by itself between two looks.
const SETTLED_KIB: u64 = 64;
/// Mappings of at least this size are the guest's memory, not the monitor's.
const GUEST_MAPPING_KIB: u64 = 64 << 10;
const SMALL: &str = "/tmp/snapshot-128";
const LARGE: &str = "/tmp/snapshot-2048";

fn tell(name: &str, value: f64) {
    println!("LAB bench {name} = {value:.3}");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Measures everything.
pub fn run() -> Result<()> {
    for _ in 0..RUNS {
        to_init(Jail::Without)?;
        to_init(Jail::Within)?;
        to_first_answer(StartFrom::Boot, "boot")?;
    }
    owner::block_on(snapshot::make("template", |_| ()))?;
    for _ in 0..RUNS {
        to_first_answer(StartFrom::Snapshot, "restore")?;
        take_snapshot(SMALL, "128")?;
        spare()?;
    }
    take_snapshot(LARGE, "2048")?;
    for _ in 0..RUNS {
        for jail in [Jail::Without, Jail::Within] {
            restore(SMALL, "128", jail)?;
            restore(LARGE, "2048", jail)?;
            pooled(SMALL, "128", jail)?;
            pooled(LARGE, "2048", jail)?;
        }
    }
    clones()?;
    println!("LAB ran 1 of 1");
    Ok(())
}

/// Whether the process that is measured goes into its jail, beginning with its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jail {
    Without,
    Within,
}

impl Jail {
    /// What follows a number's name.
    fn note(self) -> &'static str {
        match self {
            Self::Without => "",
            Self::Within => " (jailed)",
        }
    }
}

/// A process that runs the monitor alone.
struct Bare {
    process: Child,
    lines: BufReader<ChildStdout>,
    started: Instant,
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Bare {
    fn start(arguments: &[&str], jail: Jail) -> Result<Self> {
        let started = Instant::now();
        let mut process = Command::new("/omnirun-bare")
            .args((jail == Jail::Within).then_some("jailed"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, lines, started })
    }

    /// Waits for a line that begins so; answers with the rest of it.
    fn hear(&mut self, expected: &str) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        let rest = line.trim_end().strip_prefix(expected);
        Ok(rest.with_context(|| format!("{line:?} instead of {expected}"))?.trim().to_owned())
    }

    fn go_on(&mut self) -> Result<()> {
        Ok(self.process.stdin.as_mut().context("no input")?.write_all(b"\n")?)
    }

    /// KiB of the monitor beyond its guest's memory, once it has given back what its start needed; ends it.
    fn measure_and_end(self) -> Result<f64> {
        let mut rss = 0;
        limit::wait_until("the monitor goes on taking memory", Duration::from_millis(20), || {
            let now = monitor_rss_kib(self.process.id()).unwrap_or_default();
            std::mem::replace(&mut rss, now) == now
        })?;
        self.end()?;
        Ok(rss as f64)
    }

    fn end(mut self) -> Result<()> {
        self.go_on()?;
        ensure!(limit::wait_for_exit(&mut self.process)?.success(), "the monitor ended badly");
        Ok(())
    }
}

/// From the process's start to a line of the guest's process 1, over the serial port.
fn to_init(jail: Jail) -> Result<()> {
    const FIFO: &str = "/tmp/console";
    let _ = fs::remove_file(FIFO);
    mkfifoat(rustix::fs::CWD, FIFO, Mode::from_raw_mode(0o600))?;
    let bare = Bare::start(&["init", FIFO], jail)?;
    let mut console = BufReader::new(fs::File::open(FIFO)?);
    let mut line = String::new();
    while !line.contains(crate::init::GUEST_SAYS) {
        line.clear();
        ensure!(console.read_line(&mut line)? > 0, "the guest ended before its process 1 ran");
    }
    tell(&format!("boot: process start to guest init, ms{}", jail.note()), millis(bare.started.elapsed()));
    if jail == Jail::Within {
        return bare.end();
    }
    tell("boot: monitor beside guest memory, KiB", bare.measure_and_end()?);
    Ok(())
}

/// From the owner process's start to the agent's first answer, as the worker sees it.
fn to_first_answer(from: StartFrom, name: &str) -> Result<()> {
    owner::block_on(async {
        let mut owner = Owner::start("bench", |spec| spec.start_from = from).await?;
        let answered = owner.status().await?.answered_after_ms.unwrap_or_default();
        tell(&format!("{name}: owner start to agent's first answer, ms"), answered.0 as f64);
        let rss = monitor_rss_kib(owner.status().await?.owner_pid)?;
        tell(&format!("{name}: owner process beside guest memory, KiB"), rss as f64);
        let keeper = own_kib(owner.process.id())?;
        tell(&format!("{name}: its keeper, what it does not share, KiB"), keeper as f64);
        owner.kill().await?;
        Ok(())
    })
}

fn take_snapshot(directory: &str, memory: &str) -> Result<()> {
    let _ = fs::remove_dir_all(directory);
    let mut bare = Bare::start(&["snapshot", directory, memory], Jail::Without)?;
    bare.hear("answered")?;
    tell(&format!("{memory} MiB: process start to agent's first bytes, ms"), millis(bare.started.elapsed()));
    let said = bare.hear("snapshot")?;
    let (pause, whole) = said.split_once(' ').context("two numbers")?;
    tell(&format!("{memory} MiB: pause, ms"), pause.parse::<f64>()? / 1e3);
    tell(&format!("{memory} MiB: snapshot with pause, ms"), whole.parse::<f64>()? / 1e3);
    tell(
        &format!("{memory} MiB: state file, KiB"),
        fs::metadata(format!("{directory}/state"))?.len() as f64 / 1024.0,
    );
    bare.end()
}

fn restore(directory: &str, memory: &str, jail: Jail) -> Result<()> {
    let mut bare = Bare::start(&["restore", directory, memory], jail)?;
    bare.hear("resumed")?;
    let name = format!("{memory} MiB: process start to restored and resumed, ms{}", jail.note());
    tell(&name, millis(bare.started.elapsed()));
    if jail == Jail::Within {
        return bare.end();
    }
    tell(&format!("{memory} MiB: restored monitor beside guest memory, KiB"), bare.measure_and_end()?);
    Ok(())
}

fn pooled(directory: &str, memory: &str, jail: Jail) -> Result<()> {
    let mut bare = Bare::start(&["pooled", directory, memory], jail)?;
    bare.hear("pooled")?;
    let since = Instant::now();
    bare.go_on()?;
    bare.hear("resumed")?;
    tell(&format!("{memory} MiB: restore from a pooled process, ms{}", jail.note()), millis(since.elapsed()));
    bare.end()
}

/// The same of an owner process that waits with its jail and its machine, from the worker's word to its answer.
fn spare() -> Result<()> {
    owner::block_on(async {
        let mut owner = Owner::spare("spare").await?;
        let since = Instant::now();
        owner.ask::<serde_json::Value>("POST", "/owner/start", &serde_json::Value::Null).await?;
        tell("spare: word to restored and resumed, ms (jailed)", millis(since.elapsed()));
        owner.kill().await?;
        Ok(())
    })
}

/// What eight guests of one snapshot take of the lab's memory, each.
fn clones() -> Result<()> {
    let before = available_kib()?;
    let mut all = Vec::new();
    for _ in 0..CLONES {
        let mut bare = Bare::start(&["restore", SMALL, "128"], Jail::Without)?;
        bare.hear("resumed")?;
        all.push(bare);
    }
    // Once they are idle, nothing takes memory any more.
    let mut last = 0;
    limit::wait_until("the clones go on taking memory", Duration::from_millis(200), || {
        let now = available_kib().unwrap_or_default();
        std::mem::replace(&mut last, now).abs_diff(now) < SETTLED_KIB
    })?;
    let taken = before.saturating_sub(last);
    tell("8 clones: host memory taken by each, KiB", taken as f64 / CLONES as f64);
    for bare in all {
        tell("8 clones: monitor beside guest memory, KiB", bare.measure_and_end()?);
    }
    Ok(())
}

/// What a process has in memory, but its guest's memory: proc(5), /proc/PID/smaps.
fn monitor_rss_kib(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps"))?;
    let (mut size, mut total) = (0, 0);
    for line in text.lines() {
        let value = |name: &str| {
            let rest = line.strip_prefix(name)?.trim().strip_suffix(" kB")?;
            rest.parse::<u64>().ok()
        };
        size = value("Size:").unwrap_or(size);
        if let Some(resident) = value("Rss:").filter(|_| size < GUEST_MAPPING_KIB) {
            total += resident;
        }
    }
    Ok(total)
}

/// What a process has in memory that no other one shares: proc(5), /proc/PID/smaps_rollup.
fn own_kib(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let value = |line: &str| line.strip_prefix("Private_")?.split_whitespace().nth(1)?.parse::<u64>().ok();
    Ok(text.lines().filter_map(value).sum())
}

fn available_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
