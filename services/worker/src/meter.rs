//! Metering: what each sandbox has used, read from its owner process every so often.
//!
//! Readings are cumulative and their numbers follow from the time that the sandbox has had its guest, so a restarted worker goes on where the
//! one before it stopped without knowing where that was.

use std::time::Duration;

use omnirun_events::envelope::Draft;
use omnirun_events::id::SandboxId;
use omnirun_events::subject::{Slot, SubjectKind};
use omnirun_events::unit::{Bytes, MebibyteSeconds, Millis};
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_projections::sandboxes::Sandbox;
use omnirun_vmm_api::owner::Usage;

use crate::context::Context;
use crate::guests::{Guest, Life, Role};
use crate::outbox::commits;

/// Looks for each reading: a reading is late by at most this part of the time between two.
const LOOKS_PER_READING: u32 = 4;

/// Number of the last reading that is due once a sandbox has had its guest for `age`; 0 while none is.
pub fn period(age: Millis, every: Millis) -> u32 {
    u32::try_from(age.0 / every.0.max(1)).unwrap_or(u32::MAX)
}

/// How long a sandbox has had its guest, running or paused.
pub fn age(usage: &Usage) -> Millis {
    Millis(usage.wall_ms.0).plus(Millis(usage.paused_ms.0))
}

/// What an owner process says, as events say it.
pub fn read(usage: &Usage) -> Meter {
    Meter {
        wall: Millis(usage.wall_ms.0),
        vcpu: Millis(usage.vcpu_ms.0),
        memory: MebibyteSeconds(usage.memory_mib_s.0),
        received: Bytes(usage.rx_bytes.0),
        sent: Bytes(usage.tx_bytes.0),
    }
}

/// The draft of a reading, for the usage log of its week.
pub fn draft(context: &Context, sandbox: &Sandbox, id: SandboxId, reading: UsageMetered) -> Draft {
    let subject = SubjectKind::Usage(Slot::of(reading.observed_at), sandbox.account, id);
    context.draft(subject, commits::metered(id, reading.period), reading)
}

/// Meters for ever.
pub async fn run(context: Context) {
    let every = context.config.meter_every.as_duration() / LOOKS_PER_READING;
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut done = std::collections::HashMap::new();
    loop {
        ticks.tick().await;
        let guests = context.guests.all();
        let running: Vec<(SandboxId, Guest)> =
            guests.into_iter().filter_map(|(_, guest)| running(guest)).collect();
        metrics::gauge!("omnirun_worker_sandboxes").set(running.len() as f64);
        done.retain(|id, _| running.iter().any(|(other, _)| other == id));
        let readings = running.iter().map(|(id, guest)| observe(&context, *id, guest));
        let readings = futures_util::future::join_all(readings).await;
        let new = readings.into_iter().flatten().filter(|(id, reading, _)| {
            done.insert(*id, reading.period).is_none_or(|last| last < reading.period)
        });
        let drafts: Vec<Draft> = new.map(|(_, _, draft)| draft).collect();
        if let Err(error) = context.outbox.put(drafts).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "meter readings were not kept; the next ones include them"
            );
            done.clear();
        }
    }
}

fn running(guest: Guest) -> Option<(SandboxId, Guest)> {
    match (&guest.role, &guest.life) {
        (Role::Sandbox(id), Life::Claimed(_) | Life::Paused(_)) => Some((*id, guest)),
        _ => None,
    }
}

/// A reading of one sandbox if one is due. An owner process that does not answer is read the next time.
async fn observe(
    context: &Context,
    id: SandboxId,
    guest: &Guest,
) -> Option<(SandboxId, UsageMetered, Draft)> {
    let status = guest.owner.as_ref()?.status().await.ok()?;
    let sandbox = context.sandbox(id).filter(|_| !context.has_ended(id))?;
    let meter = read(&status.usage);
    let period = period(age(&status.usage), context.config.meter_every);
    if period == 0 {
        return None;
    }
    let reading = UsageMetered { period, observed_at: context.now(), meter };
    Some((id, reading.clone(), draft(context, &sandbox, id, reading)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_numbered_by_the_time_that_the_sandbox_has_had_its_guest() {
        for (wall, number) in [(0, 0), (59_999, 0), (60_000, 1), (119_999, 1), (180_000, 3)] {
            assert_eq!(period(Millis(wall), Millis(60_000)), number, "{wall}");
        }
        let paused = Usage {
            wall_ms: omnirun_vmm_api::Millis(30_000),
            paused_ms: omnirun_vmm_api::Millis(31_000),
            ..Usage::default()
        };
        assert_eq!(period(age(&paused), Millis(60_000)), 1);
    }
}
