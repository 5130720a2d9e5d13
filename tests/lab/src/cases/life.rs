//! From the boot to the end of guests.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use omnirun_vmm_api::{
    MemoryBacking, Vcpus,
    owner::{EndReason, FINAL, OwnerSpec, Stage},
};

use super::snapshot::{self, from_snapshot};
use crate::{
    limit::wait_until,
    owner::{self, Owner},
};

/// Boot, first answer, one command, kill.
pub fn boots_answers_runs_and_is_killed() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("life", |_| ()).await?;
        let answered = owner.status().await?.answered_after_ms.unwrap_or_default();
        owner.claim("sandbox").await?;
        let said = owner.run("echo $((6 * 7)); grep -c ^processor /proc/cpuinfo").await?;
        ensure!(said == "42\n1\n", "the guest said {said:?}");
        let left = owner.kill().await?;
        ensure!(left.usage.vcpu_ms.0 > 0, "no processor time was counted");
        Ok(format!("first answer after {} ms", answered.0))
    })
}

/// Memory that is a file without a name does as well.
pub fn memory_may_be_a_memfd() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("memfd", |spec| spec.backing = MemoryBacking::Memfd).await?;
        let pid = owner.status().await?.owner_pid;
        let is_mapped = |line: &str| line.contains("/memfd:guest") && line.contains(" rw-s ");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        ensure!(maps.lines().any(is_mapped), "its memory is no such file");
        owner.claim("sandbox").await?;
        let sum = owner.run("head -c 8388608 /dev/urandom > /tmp/data; sha256sum < /tmp/data").await?;
        ensure!(owner.run("sha256sum < /tmp/data").await? == sum, "the data changed");
        owner.kill().await?;
        Ok("booted".to_owned())
    })
}

/// Several processors, all of which run something.
pub fn has_as_many_processors_as_it_was_given() -> Result<String> {
    owner::block_on(async {
        for count in [2, 8] {
            let mut owner = Owner::start("smp", |spec| spec.vcpus = Vcpus(count)).await?;
            owner.claim("sandbox").await?;
            let each =
                "for c in $(seq 0 $(($(nproc) - 1))); do taskset -c $c sh -c 'echo ran'; done | grep -c ran";
            let said = owner.run(&format!("nproc; {each}")).await?;
            ensure!(said == format!("{count}\n{count}\n"), "with {count} processors the guest said {said:?}");
            owner.kill().await?;
        }
        Ok("2 and 8 processors".to_owned())
    })
}

/// What is free of the memory above the devices, in pages: a kernel gives out that first.
const FREE_ABOVE: &str = "awk '/zone +Normal/ {z = 1} z && /nr_free_pages/ {print $2; exit}' /proc/zoneinfo";
/// Written above the devices.
const WRITTEN_MIB: u64 = 128;

/// Memory on both sides of the devices, in a guest that was restored: it is used on both, and what is written above comes
/// back as it was.
pub fn uses_its_memory_around_the_devices() -> Result<String> {
    owner::block_on(async {
        // More than the lab has: a guest that does not touch its memory does not take it, nor its snapshot room.
        let large = |spec: &mut OwnerSpec| spec.memory.0 = 4608;
        let directory = snapshot::make("template-large", large).await?;
        let mut owner = Owner::start("large", |spec| {
            large(spec);
            from_snapshot(spec);
        })
        .await?;
        owner.claim("sandbox").await?;
        let before: u64 = owner.run(FREE_ABOVE).await?.trim().parse()?;
        let write = format!("head -c {WRITTEN_MIB}M /dev/urandom > /tmp/data; sha256sum < /tmp/data");
        let sum = owner.run(&write).await?;
        let after: u64 = owner.run(FREE_ABOVE).await?.trim().parse()?;
        let used = before.saturating_sub(after) / 256;
        ensure!(used >= WRITTEN_MIB * 3 / 4, "only {used} MiB above the devices are used");
        ensure!(owner.run("sha256sum < /tmp/data").await? == sum, "the data changed");
        let total: u64 = owner.run("awk '/MemTotal/ {print $2}' /proc/meminfo").await?.trim().parse()?;
        ensure!((4_300_000..4608 * 1024).contains(&total), "the guest has {total} KiB");
        owner.kill().await?;
        std::fs::remove_dir_all(directory)?;
        Ok(format!("{total} KiB of 4608 MiB, {used} MiB written above the devices"))
    })
}

/// The entropy device works, and its bytes are not the same twice.
pub fn draws_entropy_from_the_host() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("entropy", |_| ()).await?;
        owner.claim("sandbox").await?;
        let script = "cat /sys/class/misc/hw_random/rng_current; for i in 1 2; do head -c 4096 /dev/hwrng | sha256sum; done";
        let said = owner.run_as("root", script).await?;
        let lines: Vec<_> = said.lines().collect();
        ensure!(lines.len() == 3 && lines[0].starts_with("virtio_rng") && lines[1] != lines[2], "{said:?}");
        owner.kill().await?;
        Ok(lines[0].to_owned())
    })
}

/// Bytes in both directions, more than any queue or buffer holds.
pub fn moves_megabytes_over_the_port() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("bytes", |_| ()).await?;
        owner.claim("sandbox").await?;
        let script = format!("printf %s '{}' | wc -c", "x".repeat(100_000));
        ensure!(owner.run(&script).await? == "100000\n", "100000 bytes did not arrive whole");
        let since = Instant::now();
        let said = owner.run("head -c 4194304 /dev/zero | tr '\\0' y").await?;
        ensure!(said.len() == 4 << 20 && said.bytes().all(|byte| byte == b'y'), "{} bytes came", said.len());
        owner.kill().await?;
        Ok(format!("4 MiB in {} ms", since.elapsed().as_millis()))
    })
}

/// Eight guests at once, each with its own answer.
pub fn eight_run_at_once() -> Result<String> {
    owner::block_on(async {
        let mut owners = Vec::new();
        for index in 0..8 {
            owners.push(Owner::begin(&format!("eight-{index}"), |_| ()).await?);
        }
        for (index, owner) in owners.iter_mut().enumerate() {
            owner.wait_ready().await.with_context(|| format!("guest {index}"))?;
            owner.claim(&format!("sandbox-{index}")).await?;
        }
        let mut resident = 0;
        for (index, owner) in owners.iter_mut().enumerate() {
            let said = owner.run("hostname").await?;
            ensure!(said == format!("sandbox-{index}\n"), "guest {index} said {said:?}");
            resident += owner.status().await?.resident_bytes.0 >> 20;
        }
        for owner in owners {
            owner.kill().await?;
        }
        Ok(format!("{resident} MiB resident for all"))
    })
}

/// A kill at any moment of the boot ends it at once, and leaves nothing but the numbers.
pub fn a_boot_can_be_killed_at_any_moment() -> Result<String> {
    owner::block_on(async {
        let mut slowest = Duration::ZERO;
        for work in [0, 50, 300, 1000, 2500] {
            let mut owner = Owner::begin("early", |_| ()).await?;
            let pid = owner.status().await?.owner_pid;
            // How far a boot is shows in the processor time that it has taken, however busy the lab is.
            let is_there = || worked_millis(pid).is_none_or(|worked| worked >= work);
            wait_until("the boot stands still", Duration::from_millis(5), is_there)?;
            let stage = owner.status().await.with_context(|| format!("after {work} ms"))?.stage;
            ensure!(stage == Stage::Starting, "the guest was up after {work} ms");
            let since = Instant::now();
            let state = owner.state.clone();
            owner.kill_and_keep().await.with_context(|| format!("after {work} ms"))?;
            slowest = slowest.max(since.elapsed());
            let left: Vec<_> = std::fs::read_dir(&state)?.flatten().map(|entry| entry.file_name()).collect();
            ensure!(left == [FINAL], "{left:?} is left");
            std::fs::remove_dir_all(state)?;
        }
        Ok(format!("five kills, the slowest {} ms", slowest.as_millis()))
    })
}

/// Processor time of all threads of a process (proc(5), the sum of the first fields of schedstat); none when it is gone.
fn worked_millis(pid: u32) -> Option<u64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let worked = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(worked.sum::<u64>() / 1_000_000)
}

/// A guest that stops its machine is seen to have ended.
pub fn a_guest_that_stops_is_seen_to_have_ended() -> Result<String> {
    owner::block_on(async {
        let mut owner = Owner::start("stops", |_| ()).await?;
        owner.claim("sandbox").await?;
        // As root of the guest: its kernel restarts at once, without a word to anybody.
        let _ = owner.run_as("root", "echo b > /proc/sysrq-trigger").await;
        let status = owner.wait()?;
        ensure!(status.success(), "the owner ended with {status}");
        let reason = owner.left()?.reason;
        ensure!(reason == EndReason::GuestExited, "the reason is {reason:?}");
        let said = owner.complaints();
        ensure!(said == "omnirun vmm: stops: the guest stopped its machine\n", "it said {said:?}");
        Ok("seen and said".to_owned())
    })
}
