//! Bringing the guest to life: restored from the template's snapshot, or booted, each with a limit.

use std::{io, sync::Arc, sync::Mutex, sync::PoisonError, time::Duration};

use omnirun_vmm_api::{
    MonitorError, Purpose, SnapshotFiles,
    owner::{EndReason, Stage, StartFrom, StartWhen},
};
use tokio::sync::oneshot;

use crate::{
    agent::{self, Agent, AgentError},
    clock,
    owner::{Owner, SharedGuest},
    voice::with_causes,
};

/// Boots tried: a boot that hangs is killed and tried once more.
const BOOTS_MAX: u32 = 2;
/// How long a restored guest's first answer may take. It runs already, so it needs no boot's time.
const RESTORED_WAIT_MAX: Duration = Duration::from_secs(10);

/// The guest did not come to life.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The monitor failed.
    #[error("cannot run the guest")]
    Monitor(#[from] MonitorError),
    /// The agent failed.
    #[error("cannot reach the guest's agent")]
    Agent(#[from] AgentError),
    /// There is no snapshot and a boot was not wanted.
    #[error("the template has no snapshot for this shape")]
    NoSnapshot,
    /// It ended before its agent answered, and not because it was told to.
    #[error("{why}")]
    Ended {
        /// In the monitor's words.
        why: String,
        /// For whoever reports it.
        reason: EndReason,
    },
    /// The keeper does not answer.
    #[error("cannot tell the keeper that the guest is up")]
    Keeper(#[source] io::Error),
    /// A thread of ours ended.
    #[error("the start was interrupted")]
    Interrupted,
}

impl StartError {
    /// How the guest has ended.
    pub fn end_reason(&self) -> EndReason {
        match self {
            Self::Ended { reason, .. } => *reason,
            _ => EndReason::StartFailed,
        }
    }

    /// Whether another boot may do better: this one has not ended for a reason that would be the same again.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Agent(_))
    }

    /// Whether the snapshot that it was restored from is at fault, and will be for everybody. One whose guest is slow, or which
    /// the kernel does not take at the moment, may be good.
    fn is_of_snapshot(&self) -> bool {
        matches!(self, Self::Monitor(MonitorError::BadFile { .. }))
    }
}

/// A guest whose agent answers.
pub struct Alive {
    pub guest: SharedGuest,
    pub agent: Agent,
    pub hung_up: oneshot::Receiver<()>,
    pub from: StartFrom,
}

/// Starts the guest as its spec wishes and notes it.
pub async fn start(owner: &Arc<Owner>) -> Result<oneshot::Receiver<()>, StartError> {
    let since = wait_for_the_word(owner).await;
    let alive = restore_or_boot(owner).await?;
    if owner.spec.purpose == Purpose::Sandbox {
        // Before any sandbox can have the guest.
        owner.outside.close_store().map_err(StartError::Keeper)?;
    }
    let mut life = owner.life();
    life.stage = Stage::Ready;
    life.started_from = Some(alive.from);
    life.answered_after = Some(since.elapsed());
    life.guest = Some(alive.guest);
    life.agent = Some(alive.agent);
    Ok(alive.hung_up)
}

/// Waits until the guest may start; answers since when.
async fn wait_for_the_word(owner: &Owner) -> clock::Started {
    if owner.spec.start_when == StartWhen::Now {
        return owner.started;
    }
    // The sender lives as long as the owner.
    let _ = owner.told.subscribe().wait_for(|told| *told).await;
    owner.life().stage = Stage::Starting;
    clock::Started::now()
}

async fn restore_or_boot(owner: &Arc<Owner>) -> Result<Alive, StartError> {
    let wish = if owner.spec.purpose == Purpose::Snapshot { StartFrom::Boot } else { owner.spec.start_from };
    if wish != StartFrom::Boot {
        let snapshot = owner.life().snapshot.take();
        match snapshot {
            Some(files) => match bring_up(owner, Some(files)).await {
                Ok(alive) => return Ok(alive),
                Err(error) if wish == StartFrom::Snapshot => return Err(error),
                Err(error) => {
                    owner.voice.say(&format!("the guest is booted instead: {}", with_causes(&error)));
                    if error.is_of_snapshot() {
                        owner.outside.discard_snapshot();
                    }
                }
            },
            None if wish == StartFrom::Snapshot => return Err(StartError::NoSnapshot),
            None => {}
        }
    }
    let mut tried = 1;
    loop {
        match bring_up(owner, None).await {
            Ok(alive) => return Ok(alive),
            Err(error) if error.may_pass() && tried < BOOTS_MAX => {
                tried += 1;
                owner.voice.say(&format!("the guest is booted again: {}", with_causes(&error)));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Starts a guest once and waits for its agent. One that fails is killed when it is dropped.
async fn bring_up(owner: &Arc<Owner>, snapshot: Option<SnapshotFiles>) -> Result<Alive, StartError> {
    let spec = owner.vm.clone();
    let (from, limit) = match snapshot {
        Some(_) => (StartFrom::Snapshot, RESTORED_WAIT_MAX),
        None => (StartFrom::Boot, owner.spec.boot_limit.duration()),
    };
    let permit = owner.starting.clone().acquire_owned().await.map_err(|_| StartError::Interrupted)?;
    let starter = owner.clone();
    let started = tokio::task::spawn_blocking(move || {
        let mut guest = match snapshot {
            Some(files) => starter.monitor.restore(&spec, files)?,
            None => starter.monitor.start(&spec)?,
        };
        let port = guest.take_port().expect("nobody has taken the port of a guest just started");
        let guest = Arc::new(Mutex::new(guest));
        // From here on a teardown finds it, whether somebody still waits for this start or not.
        starter.life().guest = Some(guest.clone());
        drop(permit);
        Ok::<_, MonitorError>((guest, port))
    });
    let (guest, port) = started.await.map_err(|_| StartError::Interrupted)??;
    owner.runs.send_replace(true);
    let answered = async {
        let (agent, hung_up) = agent::connect(port).await?;
        agent.wait_alive(limit).await?;
        Ok((agent, hung_up))
    };
    match answered.await {
        Ok((agent, hung_up)) => Ok(Alive { guest, agent, hung_up, from }),
        Err(error) => Err(give_up(owner, guest, error).await),
    }
}

/// Ends a guest whose agent does not answer; answers with the better reason.
async fn give_up(owner: &Owner, guest: SharedGuest, error: AgentError) -> StartError {
    owner.life().guest = None;
    let end = move || {
        let mut guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = (guest.why_ended(), guest.end_reason());
        let _ = guest.kill();
        ended
    };
    match tokio::task::spawn_blocking(end).await {
        Ok((Some(why), reason)) if reason.is_failure() => StartError::Ended { why, reason },
        Ok((why, _)) => {
            why.inspect(|why| owner.voice.say(why));
            error.into()
        }
        Err(_) => error.into(),
    }
}
