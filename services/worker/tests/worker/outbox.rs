//! A worker killed between writing and publishing: everything is on the log exactly once after the next start.

use std::io::BufRead;
use std::process::{Command, Stdio};
use std::sync::Arc;

use omnirun_events::codec;
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::log::{Sequence, read_to_end};
use omnirun_events::signing::Signer;
use omnirun_events::subject::{Filter, Log, Slot};
use omnirun_events::unit::Timestamp;
use omnirun_events::{Role, SubjectKind};
use omnirun_worker::outbox::Outbox;
use omnirun_worker::outbox::publish::Publisher;

use crate::bed::{Bed, example, wait};

/// What the killed process wrote; see the example.
const READINGS: u32 = 20;

async fn published(bed: &Bed) -> Vec<u32> {
    let slot = Slot::of(Timestamp(1));
    let kind = SubjectKind::Usage(slot, AccountId::from_bytes([1; 16]), SandboxId::from_bytes([2; 16]));
    let records =
        read_to_end(&bed.log, Log::Usage(slot), Filter::exactly(&kind.into()), Sequence::NONE).await;
    let records = records.expect("memory");
    let events = records.iter().flat_map(|stored| codec::decode(&stored.record).expect("a record").events);
    events
        .filter_map(|event| if let Event::UsageMetered(m) = event { Some(m.period) } else { None })
        .collect()
}

fn publisher(bed: &Bed, outbox: &Outbox) -> Publisher {
    Publisher {
        outbox: outbox.clone(),
        read: Arc::new(bed.log.clone()),
        append: Arc::new(bed.store.clone()),
        directory: bed.live(),
        signer: Arc::new(Signer::from_seed(&[101; 32], Role::Worker)),
        meters: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_of_a_killed_process_are_published_exactly_once() {
    let bed = Bed::new().await;
    let directory = tempfile::tempdir().expect("a place");
    let mut command = Command::new(example("outbox_writer"));
    let mut writer = command
        .arg(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it is built");
    let mut line = String::new();
    let mut output = std::io::BufReader::new(writer.stdout.take().expect("piped"));
    output.read_line(&mut line).expect("it says when it has written");
    assert_eq!(line, "written\n");
    writer.kill().expect("it is ours");
    writer.wait().expect("it is ours");

    // A copy from before anything was published: a crash that forgets what was let go of.
    let copy = tempfile::tempdir().expect("a place");
    for path in crate::bed::names(directory.path()).into_iter().filter(|path| path.is_file()) {
        std::fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("room");
    }
    for place in [directory.path(), copy.path()] {
        let outbox = Outbox::open(place).expect("what was acknowledged is readable");
        assert_eq!(outbox.drafts().len(), READINGS as usize);
        let task = tokio::spawn(publisher(&bed, &outbox).run());
        wait("the outbox to be empty", || outbox.is_empty()).await;
        task.abort();
        assert_eq!(published(&bed).await, (1..=READINGS).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_log_is_away() {
    let bed = Bed::new().await;
    bed.cut(true);
    let directory = tempfile::tempdir().expect("a place");
    let outbox = Outbox::open(directory.path()).expect("a new one");
    let kind = SubjectKind::Host(crate::bed::host(1));
    let draft = omnirun_events::Draft {
        commit: omnirun_events::CommitId::from_bytes([5; 16]),
        subject: kind.into(),
        at: Timestamp(1),
        actor: omnirun_events::Actor::Host(crate::bed::host(1)),
        cause: None,
        events: vec![omnirun_events::host::HostLeft {}.into()],
    };
    outbox.put(vec![draft.clone()]).await.expect("room");
    let task = tokio::spawn(publisher(&bed, &outbox).run());
    bed.refused().await;
    assert!(outbox.holds(draft.commit));
    bed.cut(false);
    wait("the outbox to be empty", || outbox.is_empty()).await;
    task.abort();
    let last =
        omnirun_events::Read::last(&bed.log, &draft.subject).await.expect("memory").expect("published");
    assert_eq!(codec::decode(&last.record).expect("a record").header.commit, draft.commit);
}
