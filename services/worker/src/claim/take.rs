//! Taking requests from the queue and racing for them. A claim that succeeds is all that happens here: the guest is the reconciler's.

use std::time::Duration;

use omnirun_events::codec::{self, DecodeError, EncodeError};
use omnirun_events::envelope::Head;
use omnirun_events::event::Event;
use omnirun_events::id::AccountId;
use omnirun_events::log::{
    AppendError, Batch, ConsumerName, Delivery, Entry, ReadError, Receipt, Sequence, Stored,
};
use omnirun_events::sandbox::{SandboxClaimed, SandboxRequested};
use omnirun_events::subject::{Filter, Log, SubjectKind};
use omnirun_events::unit::Millis;
use omnirun_projections::sandboxes::State;
use omnirun_runner::NotReached;

use super::{Answer, Capacity, answer};
use crate::context::Context;
use crate::outbox::commits;
use crate::reconcile::Mode;

/// The group that all hosts are in.
const GROUP: ConsumerName = ConsumerName("workers");

/// How long a request that this host cannot serve is kept from the others. It is held here and then given back, since not every store
/// can delay a delivery.
const LATER: Duration = Duration::from_millis(250);

/// How long the directory may take to reach a delivered record.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(5);

/// Times that a claim is made: on a request's subject anybody with a worker's access can file something first.
const TRIES: usize = 3;

/// Time before the queue is joined again, or an undecided request is given back.
const RETRY: Duration = Duration::from_millis(500);

/// A request that could not be dealt with; it will be delivered again.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("the directory does not reach the request")]
    Directory(#[source] NotReached),
    #[error("cannot write the claim down")]
    Encode(#[source] EncodeError),
    #[error("cannot append the claim")]
    Append(#[source] AppendError),
    #[error("cannot decode the request")]
    Decode(#[source] DecodeError),
}

/// Takes requests for ever. Dropping it gives back what it holds.
pub(crate) async fn run(context: Context) {
    loop {
        if let Err(error) = consume(&context).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "requests cannot be taken from the queue"
            );
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn consume(context: &Context) -> Result<(), ReadError> {
    let mut consumer = context.stores.queue.consume(Log::Events, Filter::admissions(), GROUP).await?;
    loop {
        let Delivery { stored, receipt, .. } = consumer.next().await?;
        match handle(context, &stored).await {
            Ok(Answer::Claim | Answer::Drop) => receipt.acknowledge().await?,
            Ok(Answer::Later) => give_back(receipt, LATER),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    position = stored.sequence.0,
                    "a request waits"
                );
                give_back(receipt, RETRY);
            }
        }
    }
}

/// Holds a delivery for a while, so that it does not come back at once, and gives it back.
fn give_back(receipt: Box<dyn Receipt>, after: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        // Lost with the store's connection, it is delivered again by itself.
        let _ = receipt.retry_after(Millis(0)).await;
    });
}

/// Deals with one delivered record. [`Answer::Claim`]: this host has the sandbox.
async fn handle(context: &Context, stored: &Stored) -> Result<Answer, ClaimError> {
    let SubjectKind::Admission(account) = stored.subject.kind() else { return Ok(Answer::Drop) };
    // The directory has checked chain, signature and role; this host believes what the directory believes.
    context.directory.reached(stored.sequence, DIRECTORY_PATIENCE).await.map_err(ClaimError::Directory)?;
    let record = codec::decode(&stored.record).map_err(ClaimError::Decode)?;
    let mut outcome = Answer::Drop;
    for event in &record.events {
        let Event::SandboxRequested(requested) = event else { continue };
        let known = context.sandbox(requested.sandbox);
        let Some(known) =
            known.filter(|known| known.account == account && known.commit == record.header.commit)
        else {
            continue;
        };
        match decide(context, requested, known.state) {
            Answer::Claim => outcome = claim(context, account, requested, &record.header.commit).await?,
            Answer::Later => return Ok(Answer::Later),
            Answer::Drop => {}
        }
    }
    Ok(outcome)
}

fn decide(context: &Context, requested: &SandboxRequested, state: State) -> Answer {
    if context.mode() != Mode::Serving || !context.is_present() || !context.is_enrolled() {
        return Answer::Later;
    }
    let config = &context.config;
    let used = context.directory.view(|directory, _| {
        let live = directory.sandboxes.on(context.host);
        live.filter(|(id, _)| !context.outbox.holds(commits::ended(*id))).count()
    });
    let capacity = Capacity {
        free: config.sandboxes_max.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX)),
        vcpus_max: config.vcpus_max,
        memory_max: config.memory_max,
        templates: context.templates.keys().cloned().collect(),
    };
    answer(requested, state, &capacity, context.now())
}

/// Races for the sandbox. Another winner is no error. When this host has won, the directory knows, so that the next request is counted
/// against what is left.
async fn claim(
    context: &Context,
    account: AccountId,
    requested: &SandboxRequested,
    cause: &omnirun_events::CommitId,
) -> Result<Answer, ClaimError> {
    let sandbox = requested.sandbox;
    let commit = commits::claimed(context.host, sandbox);
    let mut draft = context.about(account, sandbox, commit, SandboxClaimed { host: context.host });
    draft.cause = Some(*cause);
    let mut head = Head::EMPTY;
    for _ in 0..TRIES {
        let signed = context.signer.sign(&draft, &head).map_err(ClaimError::Encode)?;
        let (subject, expected) = (draft.subject.clone(), head.sequence);
        let entry = Entry { subject, expected, commit, record: signed.bytes };
        match context.stores.append.append_all(Batch::one(entry)).await {
            Ok(sequences) => {
                metrics::counter!("omnirun_worker_claims_total", "outcome" => "won").increment(1);
                let won = sequences.last().copied().unwrap_or_default();
                reach(context, won).await?;
                return Ok(Answer::Claim);
            }
            Err(AppendError::Conflict { actual, .. }) => reach(context, actual).await?,
            Err(error) => return Err(ClaimError::Append(error)),
        }
        // Another host was first, or what is there is nobody's claim.
        if context.sandbox(sandbox).is_none_or(|known| known.state != State::Requested) {
            metrics::counter!("omnirun_worker_claims_total", "outcome" => "lost").increment(1);
            return Ok(Answer::Drop);
        }
        head = context.directory.view(|_, verifier| verifier.head(&draft.subject));
    }
    Ok(Answer::Later)
}

async fn reach(context: &Context, position: Sequence) -> Result<(), ClaimError> {
    context.directory.reached(position, DIRECTORY_PATIENCE).await.map_err(ClaimError::Directory)
}
