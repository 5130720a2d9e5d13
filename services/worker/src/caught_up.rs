//! Saying that this host has nothing more to say: an account that is being erased waits for it.

use std::collections::BTreeSet;
use std::time::Duration;

use omnirun_events::host::HostCaughtUp;
use omnirun_events::id::{AccountId, CommitId};
use omnirun_events::log::Sequence;
use omnirun_events::subject::SubjectKind;
use omnirun_projections::Directory;

use crate::context::Context;
use crate::guests::Role;

/// Time between two looks. What was being read from a guest at the first is in the outbox by the second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks for ever.
pub async fn run(context: Context) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_silent_at = Sequence::NONE;
    loop {
        ticks.tick().await;
        let Some((through, accounts)) = context.directory.view(|directory, _| asked(directory, &context))
        else {
            continue;
        };
        if !is_silent(&context, &accounts) {
            was_silent_at = Sequence::NONE;
        } else if was_silent_at < through {
            was_silent_at = through;
        } else {
            say(&context, through).await;
        }
    }
}

/// The accounts that wait for this host's word, and up to where they want it.
fn asked(directory: &Directory, context: &Context) -> Option<(Sequence, BTreeSet<AccountId>)> {
    let said = directory.hosts.get(context.host)?.caught_up;
    let waiting: Vec<(AccountId, Sequence)> = directory
        .accounts
        .closing()
        .filter_map(|(account, closing)| Some((account, closing.quiet_at.filter(|at| *at > said)?)))
        .collect();
    let through = waiting.iter().map(|(_, at)| *at).max()?;
    Some((through, waiting.into_iter().map(|(account, _)| account).collect()))
}

/// Whether nothing of these accounts waits in the outbox and none of their guests is left.
fn is_silent(context: &Context, accounts: &BTreeSet<AccountId>) -> bool {
    let is_theirs = |kind: SubjectKind| kind.account().is_some_and(|account| accounts.contains(&account));
    let mut drafts = context.outbox.drafts().into_iter();
    let mut guests = context.guests.all().into_iter();
    !drafts.any(|(_, draft)| is_theirs(draft.subject.kind()))
        && !guests.any(|(_, guest)| match guest.role {
            Role::Sandbox(id) => context.sandbox(id).is_some_and(|known| accounts.contains(&known.account)),
            Role::Pool(_) | Role::Spare(_) | Role::Snapshot | Role::Stray => false,
        })
}

async fn say(context: &Context, through: Sequence) {
    let seed = [context.host.as_bytes().as_slice(), &through.0.to_be_bytes()].concat();
    let commit = CommitId::derive(&seed, "worker/caught_up");
    let draft = context.draft(SubjectKind::Host(context.host), commit, HostCaughtUp { through });
    if let Err(error) = context.outbox.put(vec![draft]).await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the host could not say that it has nothing more to say; it tries again"
        );
    }
}
