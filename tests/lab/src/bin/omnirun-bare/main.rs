//! The monitor alone in a process of its own, without an owner around it: what the bench measures. It says on standard
//! output how far it is, a line for each step, and goes on when it is told to by a line on standard input.

mod refused;

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use omnirun_vmm::{
    kvm::{
        Kvm,
        jail::{
            self, Event, Inmate, Shape, Side, filter,
            process::{Door, Watch},
        },
    },
    store::Template,
};
use omnirun_vmm_api::{Guest, MemoryBacking, MemoryMib, Monitor, Purpose, SnapshotFiles, Vcpus, VmSpec};

/// The template store in the initramfs.
const STORE: &str = "/images";
/// The initramfs whose process 1 does nothing but say that it runs.
const BENCH_INITRAMFS: &str = "/bench/initramfs.cpio";

/// A guest is idle when it was seen so often to use less than this between two looks.
const IDLE_LOOKS: u32 = 5;
const IDLE_LOOK_EVERY: Duration = Duration::from_millis(50);
const IDLE_MS: u64 = 5;
const IDLE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Runs one of the modes: `init FIFO`, `snapshot DIR MIB`, `restore DIR MIB`, `pooled DIR MIB`, each also
/// after the word `jailed`; `refused LIST CALL`, which has a filter refuse a system call; and `memory`, which takes and gives
/// back memory in a jail.
fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let door = match words.first() {
        Some(&"jailed" | &"refused" | &"memory") => {
            let name = format!("bare-{}", std::process::id());
            let shape = Shape { vcpus: Vcpus(1), memory: MemoryMib(2048), purpose: Purpose::Sandbox };
            match jail::divide(&name, shape, Path::new(STORE))? {
                Side::Outside(inmate) => return watch(&inmate),
                Side::Inside(door) => Some(door),
            }
        }
        _ => None,
    };
    match words[..] {
        ["refused", list, call] => refused::attempt(door.context("no jail")?, list, call)?,
        ["memory"] => refused::use_memory(door.context("no jail")?)?,
        ["jailed", ref mode @ ..] => run(mode, door)?,
        ref mode => run(mode, None)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends as the process in the jail does; like a shell where that is a signal.
fn watch(inmate: &Inmate) -> Result<ExitCode> {
    loop {
        match inmate.wait(Watch::EndOnly, Duration::from_secs(1))? {
            Event::Exited(code) => return Ok(ExitCode::from(code)),
            Event::Killed(signal) => return Ok(ExitCode::from(128 + u8::try_from(signal)?)),
            Event::Said | Event::Nothing => {}
        }
    }
}

fn run(mode: &[&str], door: Option<Door>) -> Result<()> {
    let mut kvm = Kvm::find()?;
    match *mode {
        ["init", fifo] => {
            let mut spec = spec(MemoryMib(128))?;
            spec.files.initramfs = BENCH_INITRAMFS.into();
            let mut kvm = kvm.with_console(Path::new(fifo))?;
            confine(&mut kvm, &spec, None, door)?;
            hold(&mut *kvm.start(&spec)?)
        }
        ["snapshot", directory, memory] => snapshot(&kvm, Path::new(directory), MemoryMib(memory.parse()?)),
        [how @ ("restore" | "pooled"), directory, memory] => {
            let spec = spec(MemoryMib(memory.parse()?))?;
            let files = open(Path::new(directory))?;
            confine(&mut kvm, &spec, Some(&files), door)?;
            if how == "pooled" {
                kvm.make_spare()?;
                say("pooled")?;
                wait()?;
            }
            let mut guest = kvm.restore(&spec, files)?;
            say("resumed")?;
            hold(&mut *guest)
        }
        _ => bail!("no such mode: {mode:?}"),
    }
}

/// Goes into the jail whose door this is.
fn confine(kvm: &mut Kvm, spec: &VmSpec, snapshot: Option<&SnapshotFiles>, door: Option<Door>) -> Result<()> {
    if let Some(door) = door {
        kvm.enclose(spec, snapshot)?;
        door.close(Path::new(STORE))?;
        filter::seal()?;
    }
    Ok(())
}

fn spec(memory: MemoryMib) -> Result<VmSpec> {
    let Template { digests, files, .. } = Template::open(Path::new(STORE), "base")?;
    Ok(VmSpec {
        template: digests,
        files,
        vcpus: Vcpus(1),
        memory,
        backing: MemoryBacking::Anonymous,
        state_dir: PathBuf::from("/tmp"),
        purpose: Purpose::Snapshot,
    })
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn wait() -> Result<()> {
    io::stdin().read_exact(&mut [0]).context("nobody says how to go on")
}

/// Waits to be told to end.
fn hold(guest: &mut dyn Guest) -> Result<()> {
    wait()?;
    guest.kill()?;
    Ok(())
}

fn snapshot(kvm: &Kvm, directory: &Path, memory: MemoryMib) -> Result<()> {
    let mut guest = kvm.start(&spec(memory)?)?;
    let mut port = guest.take_port().context("no port")?;
    // The preface of HTTP/2 and an empty SETTINGS frame (RFC 9113, section 3.4): the agent answers with its own.
    port.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut settings = [0; 9];
    port.read_exact(&mut settings)?;
    say("answered")?;
    warm(&mut port, settings)?;
    drop(port);
    wait_idle(&mut *guest)?;
    fs::create_dir_all(directory)?;
    let create = |name| File::create_new(directory.join(name));
    let files =
        SnapshotFiles { memory: create("memory")?, state: create("state")?, directory: directory.to_owned() };
    let since = Instant::now();
    guest.pause()?;
    let paused = since.elapsed();
    guest.snapshot(files)?;
    say(&format!("snapshot {} {}", paused.as_micros(), since.elapsed().as_micros()))?;
    hold(&mut *guest)
}

/// Has the agent make itself ready for a snapshot, as an owner does: `POST /warm` in a HEADERS frame that ends its stream, then its answer,
/// 204 (RFC 9113, section 6.2; RFC 7541, appendix A, entries 3, 6, 4 and 9). Its first SETTINGS frame has been read but for what is in it.
fn warm(port: &mut UnixStream, settings: [u8; 9]) -> Result<()> {
    port.write_all(b"\0\0\x09\x01\x05\0\0\0\x01\x83\x86\x04\x05/warm")?;
    let mut head = settings;
    loop {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        port.read_exact(&mut payload)?;
        if head[3] == 1 {
            ensure!(payload.first() == Some(&(0x80 | 9)), "the agent refuses to get warm");
            return Ok(());
        }
        port.read_exact(&mut head)?;
    }
}

/// Waits until the guest has nothing to do: its agent has seen that the host has gone.
fn wait_idle(guest: &mut dyn Guest) -> Result<()> {
    let since = Instant::now();
    let (mut used, mut idle) = (guest.stats()?.vcpu, 0);
    while idle < IDLE_LOOKS {
        ensure!(since.elapsed() < IDLE_WAIT_MAX, "the guest is busy for no reason");
        std::thread::sleep(IDLE_LOOK_EVERY);
        let now = guest.stats()?.vcpu;
        idle = if now.0 <= used.0 + IDLE_MS { idle + 1 } else { 0 };
        used = now;
    }
    Ok(())
}

fn open(directory: &Path) -> Result<SnapshotFiles> {
    let open = |name| File::open(directory.join(name));
    Ok(SnapshotFiles { memory: open("memory")?, state: open("state")?, directory: directory.to_owned() })
}
