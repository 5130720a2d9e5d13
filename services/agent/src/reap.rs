//! Waiting for children, as process 1 must: for its own and for every orphan.
//!
//! One thread waits for all. A command is started while [`CHILDREN`] is locked and the thread looks before it reaps,
//! so no exit can be lost between the start and its registration, nor be taken from `std`'s own spawn.

use std::{
    collections::HashMap,
    io,
    process::{Child, Command},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid},
};
use tokio::sync::oneshot;

static CHILDREN: Mutex<Option<HashMap<i32, oneshot::Sender<i32>>>> = Mutex::new(None);
static STARTED: Condvar = Condvar::new();

fn children() -> MutexGuard<'static, Option<HashMap<i32, oneshot::Sender<i32>>>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child whose exit code arrives on the receiver: its status, or 128 + n for signal n.
pub fn spawn(command: &mut Command) -> io::Result<(Child, oneshot::Receiver<i32>)> {
    let mut table = children();
    let child = command.spawn()?;
    let (tell, told) = oneshot::channel();
    let pid = i32::try_from(child.id()).map_err(|_| io::Error::from(Errno::RANGE))?;
    table.get_or_insert_default().insert(pid, tell);
    STARTED.notify_one();
    Ok((child, told))
}

/// Starts the thread that reaps.
pub fn start() {
    thread::spawn(|| {
        loop {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            match waitid(WaitId::All, look) {
                Ok(_) => reap_all(),
                Err(Errno::INTR) => {}
                Err(_) => wait_for_a_start(),
            }
        }
    });
}

/// No child means no orphan either, until the next start.
fn wait_for_a_start() {
    let table = children();
    if table.as_ref().is_none_or(HashMap::is_empty) {
        drop(STARTED.wait(table));
    }
}

fn reap_all() {
    let mut table = children();
    while let Ok(Some((pid, status))) = waitpid(None::<Pid>, WaitOptions::NOHANG) {
        let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255);
        if let Some(tell) = table.as_mut().and_then(|table| table.remove(&pid.as_raw_nonzero().get())) {
            let _ = tell.send(code);
        }
    }
}
