//! The life of the owner process: start, wait for whatever ends the guest, tear down, leave the numbers.

use std::{
    io,
    os::unix::net::UnixListener,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use omnirun_vmm_api::{
    Stats, UnixMillis,
    owner::{EndReason, Final, Stage},
};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use crate::{
    clock,
    outside::Outside,
    owner::{Ending, Owner},
    serve, start,
};

/// The wall clock may be set while we wait for a time, so it is looked at again at least this often; so is the socket.
const CLOCK_LOOK: Duration = Duration::from_secs(1);
/// After the teardown, time for the answers to those who asked for it.
const FAREWELL: Duration = Duration::from_millis(100);

/// Something around the guest's life failed.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// The socket is of no use.
    #[error("cannot listen on the socket in the state directory")]
    Socket(#[source] io::Error),
    /// Something stays in the state directory.
    #[error("cannot tidy up the state directory")]
    TidyUp(#[source] io::Error),
}

/// Lives with the guest, from its start to its end.
pub async fn live(owner: Arc<Owner>, listener: UnixListener) -> ExitCode {
    let listener = match listen(listener) {
        Ok(listener) => listener,
        Err(error) => {
            owner.voice.complain(&EndError::Socket(error));
            return ExitCode::FAILURE;
        }
    };
    let server = tokio::spawn(serve::serve(owner.clone(), listener));
    let mut ending = wait(&owner).await;
    {
        let mut life = owner.life();
        life.stage = Stage::Ending;
        // What the teardown takes is nobody's running time.
        if let Some(tenancy) = &mut life.tenancy {
            tenancy.watch.stop(Instant::now());
        }
    }
    let left = tear_down(&owner, ending.reason).await;
    if let Some(tell) = ending.tell.take() {
        let _ = tell.send(left);
    }
    // Others may have asked for the end meanwhile.
    if let Ok(mut more) = owner.endings.try_lock() {
        while let Ok(Ending { tell, .. }) = more.try_recv() {
            tell.map(|tell| tell.send(left));
        }
    }
    tokio::time::sleep(FAREWELL).await;
    server.abort();
    // What failed has been said on standard error.
    if left.reason.is_failure() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn listen(listener: UnixListener) -> io::Result<tokio::net::UnixListener> {
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// Starts the guest and waits for the first reason to end it.
async fn wait(owner: &Arc<Owner>) -> Ending {
    let mut endings = owner.endings.lock().await;
    let by_itself = |reason| Ending { reason, tell: None };
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(_) => return by_itself(EndReason::StartFailed),
    };
    let hung_up = tokio::select! {
        started = start::start(owner) => match started {
            Ok(hung_up) => hung_up,
            Err(error) => {
                owner.voice.complain(&error);
                return by_itself(error.end_reason());
            }
        },
        Some(ending) = endings.recv() => return ending,
        () = out_of_reach(owner) => return by_itself(EndReason::HostStopped),
        () = unattended(owner) => return by_itself(EndReason::HostCutOff),
        _ = terminate.recv() => return by_itself(EndReason::HostStopped),
    };
    tokio::select! {
        biased;
        Some(ending) = endings.recv() => ending,
        reason = guest_ended(owner) => by_itself(reason),
        () = time_is_up(owner.end.subscribe()) => by_itself(EndReason::EndTime),
        () = out_of_reach(owner) => by_itself(EndReason::HostStopped),
        () = unattended(owner) => by_itself(EndReason::HostCutOff),
        () = agent_lost(owner, hung_up) => by_itself(EndReason::AgentLost),
        _ = terminate.recv() => by_itself(EndReason::HostStopped),
    }
}

/// Waits until the guest has ended without being told to, and says why.
async fn guest_ended(owner: &Owner) -> EndReason {
    wait_for_end(owner).await;
    let ended = owner.with_guest(|guest| Ok((guest.why_ended(), guest.end_reason()))).await;
    let Some(Ok((why, reason))) = ended else { return EndReason::GuestExited };
    why.inspect(|why| owner.voice.say(why));
    reason
}

async fn wait_for_end(owner: &Owner) {
    let ended = owner.with_guest(|guest| guest.ended()).await;
    // A guest that cannot be watched counts as ended: it must not live without its end being seen.
    if let Some(Ok(fd)) = ended {
        let _ =
            tokio::task::spawn_blocking(
                move || while poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).is_err() {},
            )
            .await;
    }
}

/// A guest that ends hangs up too, and its end is the better reason, so wait a moment for it. A guest that is being
/// snapshotted is hung up on by us.
async fn agent_lost(owner: &Owner, hung_up: oneshot::Receiver<()>) {
    let _ = hung_up.await;
    if owner.life().stage == Stage::Ending {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Waits until somebody has removed the socket, as with the host's whole data. No worker can find the guest then, and one that waits in
/// a pool has no end time: it would stay for good.
async fn out_of_reach(owner: &Owner) {
    match &owner.outside {
        Outside::Here(files) => {
            while files.is_in_reach() {
                tokio::time::sleep(CLOCK_LOOK).await;
            }
        }
        // The keeper looks, and asks for the end as a host that stops does.
        Outside::Keeper(_) => std::future::pending().await,
    }
}

/// Waits until no worker has been connected for as long as one may be away. Nobody meters the guest then, and its place is given away.
async fn unattended(owner: &Owner) {
    let limit = Duration::from_millis(owner.spec.unattended_limit.0);
    let mut sessions = owner.sessions.subscribe();
    loop {
        // The owner holds the sender.
        let _ = sessions.wait_for(|count| *count == 0).await;
        if tokio::time::timeout(limit, sessions.wait_for(|count| *count > 0)).await.is_err() {
            return;
        }
    }
}

/// Waits until the end: the time of day that was said last, or as much time since it was said as there was until then, whichever comes
/// first. A clock that is set back gives nobody more time.
async fn time_is_up(mut end: watch::Receiver<Option<UnixMillis>>) {
    loop {
        let Some(at) = *end.borrow_and_update() else {
            if end.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            continue;
        };
        let left = || Duration::from_millis(at.0.saturating_sub(clock::now().0));
        let (told, granted) = (Instant::now(), left());
        loop {
            let left = left().min(granted.saturating_sub(told.elapsed()));
            if left.is_zero() {
                return;
            }
            if tokio::time::timeout(left.min(CLOCK_LOOK), end.changed()).await.is_ok() {
                break;
            }
        }
    }
}

/// Ends the guest and removes everything but the numbers.
async fn tear_down(owner: &Owner, reason: EndReason) -> Final {
    // A start that was interrupted goes on in its thread; what it has started must be ended too.
    let _started = owner.starting.acquire().await;
    let stats = match owner.with_guest(|guest| guest.kill()).await {
        Some(Ok(stats)) => stats,
        _ => Stats::default(),
    };
    let left = Final { reason, ended_at_ms: clock::now(), usage: owner.usage(&stats) };
    {
        let mut life = owner.life();
        life.agent = None;
        life.guest = None;
    }
    if let Err(error) = owner.outside.leave(&left) {
        owner.voice.complain(&EndError::TidyUp(error));
    }
    left
}
