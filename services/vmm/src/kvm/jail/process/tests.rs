//! Ending an inmate that does not want to.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;

/// How long a wait takes in which nothing happens.
const LOOK: Duration = Duration::from_millis(50);

/// An inmate that ignores SIGTERM, first asked to end at this moment.
fn stubborn(asked: Instant) -> (Inmate, Child) {
    let mut child = Command::new("sh")
        .args(["-c", "trap '' TERM; echo; exec sleep 3600"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("every system has a shell");
    child.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("it says when it is ready");
    let pid = Pid::from_child(&child);
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it lives");
    let (channel, _) = UnixStream::pair().expect("sockets");
    (Inmate { process, channel, asked: OnceCell::from(asked), _cgroup: None }, child)
}

#[test]
fn an_inmate_that_does_not_end_when_it_is_asked_to_is_ended_once_its_time_is_up() {
    let (inmate, mut child) = stubborn(Instant::now());
    inmate.terminate();
    assert!(matches!(inmate.wait(Watch::EndOnly, LOOK), Ok(Event::Nothing)), "it has time");
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");

    let long_ago = Instant::now().checked_sub(END_WAIT_MAX).expect("this system runs for longer");
    let (inmate, _child) = stubborn(long_ago);
    inmate.terminate();
    let mut ended = Event::Nothing;
    while matches!(ended, Event::Nothing) {
        ended = inmate.wait(Watch::EndOnly, LOOK).expect("it is ours");
    }
    assert!(matches!(ended, Event::Killed(9)), "{ended:?}");
}
