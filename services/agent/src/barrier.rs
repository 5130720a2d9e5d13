//! The barrier that every guest stands at until the host has made it different from all others.
//!
//! A guest may be one of many restored from the same snapshot, with the same random state, clock and ids. So nothing
//! of a user runs, and no id or key is made, before [`Guest::personalise`] has mixed in the host's entropy.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    io::Write,
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hyper::StatusCode;
use omnirun_agent_api::{Personalise, Personalised, Private, Stage, UnixMillis};
use rustix::{
    rand::GetRandomFlags,
    thread::ClockId,
    time::{Timespec, clock_settime},
};

use crate::{answer::No, command::Commands, repeat::Repeats};

/// Bytes of host entropy, as linux/random.h's `RNDADDENTROPY` gets them.
const ENTROPY_BYTES: usize = 64;

/// All that the agent knows.
pub struct Guest {
    stage: Mutex<Stage>,
    envs: Mutex<BTreeMap<String, Private>>,
    /// Commands that run or ran.
    pub commands: Commands,
    /// Answers kept for repeated requests.
    pub repeats: Repeats,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guest {
    /// A guest at the barrier.
    pub fn new() -> Self {
        Self {
            stage: Mutex::new(Stage::Barrier),
            envs: Mutex::default(),
            commands: Commands::default(),
            repeats: Repeats::default(),
        }
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        *locked(&self.stage)
    }

    /// The environment that every command starts with.
    pub fn envs(&self) -> BTreeMap<String, Private> {
        locked(&self.envs).clone()
    }

    /// Adds to that environment.
    pub fn set_envs(&self, envs: BTreeMap<String, Private>) -> Result<(), No> {
        check_envs(&envs)?;
        locked(&self.envs).extend(envs);
        Ok(())
    }

    /// Opens the barrier, once. The order matters: entropy, clock, then what is made from them. A step that fails
    /// leaves the barrier closed; the host then ends the guest.
    pub fn personalise(&self, wish: Personalise) -> Result<Personalised, No> {
        let mut stage = locked(&self.stage);
        if *stage == Stage::Ready {
            return Err(No::new(
                StatusCode::CONFLICT,
                "already_personalised",
                "the guest is personalised already",
            ));
        }
        check_envs(&wish.envs)?;
        check_hostname(&wish.hostname)?;
        let entropy = from_hex(wish.entropy.expose())
            .ok_or(No::invalid("bad_entropy", "the entropy is not 64 bytes in hexadecimal"))?;
        reseed(&entropy)?;
        set_clock(wish.now)?;
        let made = make_ids()?;
        set_hostname(&wish.hostname)?;
        locked(&self.envs).extend(wish.envs);
        *stage = Stage::Ready;
        Ok(made)
    }
}

/// Names and values that execve(2) can take.
pub fn check_envs(envs: &BTreeMap<String, Private>) -> Result<(), No> {
    let is_bad = |(name, value): (&String, &Private)| {
        name.is_empty() || name.contains(['=', '\0']) || value.expose().contains('\0')
    };
    if envs.iter().any(is_bad) {
        return Err(No::invalid(
            "bad_environment",
            "an environment variable's name or value is not possible",
        ));
    }
    Ok(())
}

fn check_hostname(name: &str) -> Result<(), No> {
    let is_good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(is_good) {
        return Err(No::invalid("bad_hostname", "the host name is not 1 to 63 of a-z, 0-9 and -"));
    }
    Ok(())
}

fn from_hex(text: &str) -> Option<[u8; ENTROPY_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * ENTROPY_BYTES {
        return None;
    }
    let mut bytes = [0; ENTROPY_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Mixes the host's entropy into the kernel's pool and makes the generator draw from it at once: random(4).
fn reseed(entropy: &[u8; ENTROPY_BYTES]) -> io::Result<()> {
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: i32,
        bytes: i32,
        buffer: [u8; ENTROPY_BYTES],
    }
    const RNDADDENTROPY: rustix::ioctl::Opcode = 0x4008_5203; // _IOW('R', 0x03, int[2]), linux/random.h
    const RNDRESEEDCRNG: rustix::ioctl::Opcode = 0x5207; // _IO('R', 0x07), linux/random.h
    let random = File::options().write(true).open("/dev/urandom")?;
    let info =
        PoolInfo { entropy_bits: 8 * ENTROPY_BYTES as i32, bytes: ENTROPY_BYTES as i32, buffer: *entropy };
    // SAFETY: RNDADDENTROPY reads two ints, then as many bytes as the second one says; all are in `info`.
    unsafe {
        rustix::ioctl::ioctl(random.as_fd(), rustix::ioctl::Setter::<RNDADDENTROPY, PoolInfo>::new(info))?;
    }
    // SAFETY: RNDRESEEDCRNG takes no argument.
    unsafe { rustix::ioctl::ioctl(random.as_fd(), rustix::ioctl::NoArg::<RNDRESEEDCRNG>::new())? };
    Ok(())
}

/// Sets the wall clock.
pub fn set_clock(now: UnixMillis) -> Result<(), No> {
    let seconds =
        i64::try_from(now.0 / 1000).map_err(|_| No::invalid("bad_clock", "the time is out of range"))?;
    let nanos = i64::try_from(now.0 % 1000).unwrap_or(0) * 1_000_000;
    clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanos })
        .map_err(io::Error::from)?;
    Ok(())
}

/// Random bytes from the kernel, which cannot fail once its generator has been seeded.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += rustix::rand::getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

fn make_ids() -> io::Result<Personalised> {
    let boot_id = uuid(random()?);
    // The kernel keeps its own boot id for its life, so the new one lies over it.
    fs::create_dir_all("/run/omnirun")?;
    fs::write("/run/omnirun/boot_id", format!("{boot_id}\n"))?;
    rustix::mount::mount_bind("/run/omnirun/boot_id", "/proc/sys/kernel/random/boot_id")?;
    let machine_id = to_hex(&random::<16>()?);
    fs::write("/etc/machine-id", format!("{machine_id}\n"))?;
    Ok(Personalised { boot_id, machine_id, instance: to_hex(&random::<32>()?) })
}

/// RFC 9562 section 5.4: version 4, variant 10.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = to_hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn set_hostname(name: &str) -> io::Result<()> {
    rustix::system::sethostname(name.as_bytes())?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    let mut hosts = File::create("/etc/hosts")?;
    write!(hosts, "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_exactly_64_bytes_of_hex() {
        assert_eq!(from_hex(&"0f".repeat(64)), Some([15; 64]));
        assert_eq!(from_hex(&"0f".repeat(63)), None);
        assert_eq!(from_hex(&"0g".repeat(64)), None);
    }

    #[test]
    fn uuids_have_their_version_and_variant() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn names_that_execve_cannot_take_are_refused() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            let envs = BTreeMap::from([(name.to_owned(), Private::from(value))]);
            assert!(check_envs(&envs).is_err());
        }
    }
}
