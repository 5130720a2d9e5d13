//! Puts drafts into the outbox in the directory given, says so, and waits to be killed: a worker that dies before it publishes.

use std::io::{Read, Write};

use omnirun_events::id::{AccountId, CommitId, HostId, SandboxId};
use omnirun_events::subject::{Slot, SubjectKind};
use omnirun_events::unit::Timestamp;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::{Actor, Draft};
use omnirun_worker::outbox::{Outbox, commits};

/// Readings that are written, numbered from 1.
const READINGS: u32 = 20;

fn main() {
    let directory = std::env::args_os().nth(1).expect("a directory");
    let outbox = Outbox::open(directory.as_ref()).expect("a usable directory");
    let (account, sandbox) = (AccountId::from_bytes([1; 16]), SandboxId::from_bytes([2; 16]));
    let kind = SubjectKind::Usage(Slot::of(Timestamp(1)), account, sandbox);
    for period in 1..=READINGS {
        let reading = UsageMetered { period, observed_at: Timestamp(1), meter: Meter::default() };
        let commit: CommitId = commits::metered(sandbox, period);
        let actor = Actor::Host(HostId::from_bytes([3; 16]));
        let events = vec![reading.into()];
        let draft = Draft { commit, subject: kind.into(), at: Timestamp(1), actor, cause: None, events };
        outbox.put_blocking(vec![draft]).expect("room on the disk");
    }
    println!("written");
    std::io::stdout().flush().expect("somebody reads");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("somebody holds it open");
}
