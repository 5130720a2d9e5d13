//! One boot of the lab's machine: started, listened to, ended in time; started once more if it does not come up.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// How time passes in the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// As on the host.
    Host,
    /// A nanosecond for each instruction: the same work takes the same time on every host.
    Instructions,
}

/// A machine to run.
pub struct Machine<'a> {
    pub root: &'a Path,
    pub initramfs: &'a Path,
    /// What is written to it is forgotten.
    pub disk: Option<&'a Path>,
    pub clock: Clock,
    /// How long it may take in all.
    pub limit: Duration,
}

/// Boots tried: TCG hangs now and then on a busy host. A case that hangs alone is a failure and not tried again: process 1 says so.
const BOOTS_MAX: u32 = 2;
/// QEMU 7.2 now and then loses an interrupt: seen with the timer's pending in the local APIC, interrupts on, and the processor halted until
/// another one came, from a key that was sent to it. A timer that is set for each next event is then waited for for ever; one that ticks comes
/// again. Counted instructions are left as they are: there it was not seen.
const TICKS: &str = "nohz=off highres=off";
/// How long the lab's kernel may take to start process 1.
const UP_MAX: Duration = Duration::from_secs(180);
/// How long it may say nothing once it is up. Each case in it has a shorter limit, and says so: this one is for a machine
/// that stands still itself.
const SILENCE_MAX: Duration = Duration::from_secs(400);
/// How long QEMU's monitor may take to tell what it was asked.
const LOOK_FOR: Duration = Duration::from_secs(1);
/// Memory: the initramfs twice, and eight guests.
const MEMORY: &str = "3072";

impl Machine<'_> {
    /// Runs it with these arguments for process 1, printing what it says; answers with the lines meant for us.
    pub fn run(&self, arguments: &[String]) -> Result<Vec<String>> {
        for boot in 1..=BOOTS_MAX {
            let mut running = self.start(arguments)?;
            match running.listen(self.limit)? {
                Heard::End(lines) => {
                    println!("lab boots: {boot}");
                    return Ok(lines);
                }
                Heard::Nothing => println!("lab boot {boot} did not come up"),
                Heard::Silence(seen) => println!(
                    "lab boot {boot} stood still: nothing in {SILENCE_MAX:?}; its processor twice, a second apart:\n{seen}"
                ),
            }
        }
        bail!("in {BOOTS_MAX} boots the lab did not come up or stood still")
    }

    fn start(&self, arguments: &[String]) -> Result<Running> {
        let ticks = if self.clock == Clock::Host { TICKS } else { "" };
        let command_line =
            format!("console=ttyS0 reboot=t panic=1 quiet no_timer_check {ticks} -- {}", arguments.join(" "));
        let monitor = self.root.join("target/lab/monitor");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-M",
                "q35,accel=tcg",
                "-cpu",
                "max,+svm,+npt",
                "-m",
                MEMORY,
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-nographic", "-serial", "stdio", "-no-reboot", "-append", &command_line])
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .arg("-kernel")
            .arg(self.root.join(".data/images/kernel/vmlinux"))
            .arg("-initrd")
            .arg(self.initramfs);
        if let Some(disk) = self.disk {
            // Debian's kernel has NVMe and ext4 built in, and no virtio.
            let drive = format!("file={},if=none,id=disk,format=raw,snapshot=on", disk.display());
            command.args(["-drive", &drive, "-device", "nvme,drive=disk,serial=disk"]);
        }
        if self.clock == Clock::Instructions {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64: install the package qemu-system-x86")?;
        let lines = lines(process.stdout.take().context("no output")?);
        Ok(Running { process, monitor, lines })
    }
}

/// What runs the lab, by its package where that is known.
pub fn version() -> Result<String> {
    let said = crate::output(Command::new("qemu-system-x86_64").arg("--version"))?;
    let version = said.lines().next().unwrap_or_default().trim().to_owned();
    let mut dpkg = Command::new("dpkg-query");
    let package =
        crate::output(dpkg.args(["--show", "--showformat=${Package} ${Version}", "qemu-system-x86"]));
    Ok(package.map_or(version.clone(), |package| format!("{version}, package {package}")))
}

/// How a boot went.
enum Heard {
    /// It did not come up in time.
    Nothing,
    /// It was up, and then nothing moved: what its processor was doing.
    Silence(String),
    /// It ended, having said this to us.
    End(Vec<String>),
}

struct Running {
    process: Child,
    monitor: PathBuf,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Running {
    /// What its processor is doing, as QEMU's monitor tells: whether the machine stands still, or the emulator.
    fn look(&self) -> Result<String> {
        let mut monitor = UnixStream::connect(&self.monitor).context("QEMU's monitor does not answer")?;
        monitor.set_read_timeout(Some(LOOK_FOR))?;
        let mut seen = Vec::new();
        for _ in 0..2 {
            monitor.write_all(b"info status\ninfo registers\n")?;
            // It ends no answer; the silence after it does.
            let ended = monitor.read_to_end(&mut seen);
            ensure!(ended.is_err(), "QEMU has ended");
        }
        Ok(String::from_utf8_lossy(&seen).into_owned())
    }

    /// What it says, until it ends or its time is over.
    fn listen(&mut self, limit: Duration) -> Result<Heard> {
        let since = Instant::now();
        let mut said = Vec::new();
        loop {
            let left = if said.is_empty() { UP_MAX } else { limit }.saturating_sub(since.elapsed());
            match self.lines.recv_timeout(left.min(SILENCE_MAX)) {
                Ok(line) => {
                    println!("{line}");
                    said.extend(line.strip_prefix("LAB ").map(str::to_owned));
                }
                Err(_) if said.is_empty() => return Ok(Heard::Nothing),
                Err(mpsc::RecvTimeoutError::Timeout) if since.elapsed() < limit => {
                    return Ok(Heard::Silence(self.look().unwrap_or_else(|error| format!("{error:#}"))));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("the lab is not done after {limit:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(Heard::End(said)),
            }
        }
    }
}

fn lines(output: ChildStdout) -> Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        // Bytes, not text: a machine that is starting may print anything.
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if tell.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    told
}
