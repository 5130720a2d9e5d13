//! Appending until the outcome is known, or patience ends.
//!
//! If a try of ours was stored, its record is the first of its subject after `expected`, for as long as it is kept. One read
//! from the leader therefore tells: our commit there is success, another one is a conflict, none means that the same bytes can go again.
//! A try that arrives late, after a reconnect, runs into the expectation and does no harm.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use omnirun_events::log::{AppendError, Entry};
use omnirun_events::{Filter, Sequence, Subject};

use crate::error::{Reason, Source};
use crate::publish::{Message, Sent, commit_of, positions, send};
use crate::server::Server;

/// First and longest pause before the same bytes go again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// By sending.
    Send,
    /// By looking: it may be stored already, or an expectation is known not to hold.
    Look,
}

/// What the leader shows.
enum Shown {
    Stored(Vec<Sequence>),
    Conflict {
        subject: Subject,
        actual: Sequence,
    },
    /// None of the entries, and nothing in their way.
    Nothing,
}

/// Appends `entries`, which are of one log and of different subjects, all or none.
pub(crate) async fn append(
    server: &Server,
    entries: &[Entry],
    begin: Begin,
) -> Result<Vec<Sequence>, AppendError> {
    let Some(log) = entries.first().map(|entry| entry.subject.log()) else { return Ok(Vec::new()) };
    let end = Instant::now() + server.patience.outcome;
    let mut pause = PAUSE.0;
    let mut next = begin;
    loop {
        let mut why: Source = Reason::Refused.into();
        if next == Begin::Send {
            match send(server, entries.iter().map(Message::of).collect()).await {
                Sent::Stored(last) => return Ok(positions(last, entries.len())),
                Sent::Full(remedy) => return Err(AppendError::Full { log, remedy }),
                Sent::Refused => {}
                Sent::Unknown(source) => why = source,
            }
        }
        next = Begin::Send;
        match look(server, entries).await {
            Ok(Shown::Stored(positions)) => return Ok(positions),
            Ok(Shown::Conflict { subject, actual }) => return Err(AppendError::Conflict { subject, actual }),
            Ok(Shown::Nothing) => {}
            Err(source) => {
                // Sending again without having looked would be safe, but would tell nothing new.
                next = Begin::Look;
                why = source;
            }
        }
        if Instant::now() + pause >= end {
            return Err(AppendError::Unknown { log, source: why });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn look(server: &Server, entries: &[Entry]) -> Result<Shown, Source> {
    let found = try_join_all(entries.iter().map(|entry| ours(server, entry))).await?;
    let stored: Vec<_> = found.iter().filter_map(|own| *own).collect();
    if stored.len() == entries.len() {
        return Ok(Shown::Stored(stored));
    }
    for entry in entries {
        let actual = last(server, &entry.subject).await?;
        // A record beyond `expected` can be our own, arrived since the first look: then the next try is told so.
        let is_anothers = actual > entry.expected && ours(server, entry).await?.is_none();
        if actual < entry.expected || is_anothers {
            return Ok(Shown::Conflict { subject: entry.subject.clone(), actual });
        }
    }
    Ok(Shown::Nothing)
}

/// Position of this very entry, if it is the first record of its subject after `expected`.
async fn ours(server: &Server, entry: &Entry) -> Result<Option<Sequence>, Source> {
    let subject = Filter::exactly(&entry.subject);
    let next = server.first_from(entry.subject.log(), &subject, entry.expected.next()).await?;
    let own = next.filter(|message| commit_of(message) == Some(entry.commit));
    Ok(own.map(|message| Sequence(message.sequence)))
}

async fn last(server: &Server, subject: &Subject) -> Result<Sequence, Source> {
    let last = server.last_of(subject.log(), &Filter::exactly(subject)).await?;
    Ok(last.map_or(Sequence::NONE, |message| Sequence(message.sequence)))
}
