//! Bills: closes months whose time has come and has accounts told how much of their month is used.

use std::sync::Arc;
use std::time::Duration;

use omnirun_billing::due::{UnknownPlan, notice_due, statement_due};
use omnirun_billing::{Billing, Ledger, Plans};
use omnirun_commands_api::{Command, Commands, Envelope, SendError};
use omnirun_events::billing::{SeenThrough, StatementClosed};
use omnirun_events::envelope::{Actor, Role};
use omnirun_events::id::{AccountId, CommandId};
use omnirun_events::log::{Read, Sequence};
use omnirun_events::unit::{Clock, Millis, Timestamp};
use omnirun_runner::{Live, NotCaughtUp, Source};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long a look waits until the ledgers have everything. A statement from less would miss what is in the logs already.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);

/// How long one command may take.
const COMMAND_WITHIN: Millis = Millis(10_000);

/// From a month's end until billing lags so much that an operator is called: readings go on their 90th day, billed or not.
const LAG_ALARM: Millis = Millis(30 * 24 * 3600 * 1000);

/// What it is made of.
pub struct Bills {
    /// Reads the ends of the logs.
    pub reader: Arc<dyn Read>,
    /// The ledgers, being followed from the same store.
    pub ledgers: Live<Billing>,
    /// Where what is due goes.
    pub commands: Arc<dyn Commands>,
    /// What months are rated by.
    pub plans: Arc<Plans>,
    /// The time.
    pub clock: Clock,
}

/// What one look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looked {
    /// Statements that were closed, now or by another projector.
    pub closed: usize,
    /// Accounts that were told something, now or by another projector.
    pub noticed: usize,
    /// Commands that were not followed; they are asked again at the next look.
    pub refused: usize,
    /// How long the oldest month that is still to be closed has been over.
    pub behind: Millis,
}

/// A look that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The ledgers do not have everything that is in the logs.
    #[error("the ledgers are behind the logs")]
    Behind(#[from] NotCaughtUp),
}

impl Bills {
    /// Looks again and again, until it is dropped. Several projectors may do so: what one has asked for, the others find done.
    pub async fn run(self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match self.look().await {
                Ok(looked) => report(&looked),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "bills were not looked at; they are at the next look");
                }
            }
        }
    }

    /// Asks for everything that is due now. Accounts are asked for one after the other; one that is refused does not hold up the others.
    pub async fn look(&self) -> Result<Looked, LookError> {
        // The time first: what had arrived by then is in the ledgers when they are read.
        let now = (self.clock)();
        let logs = Source::EventsAndUsage.logs();
        self.ledgers.has_all(&*self.reader, &logs, CATCH_UP_WITHIN).await?;
        let mut looked = Looked::default();
        let due = self.ledgers.view_at(|ledgers, read| {
            let read = read.iter().filter(|(_, through)| **through > Sequence::NONE);
            let seen: Vec<_> = read.map(|(log, through)| SeenThrough(*log, *through)).collect();
            self.due(ledgers, &seen, now, &mut looked)
        });
        for due in due {
            let (is_notice, sent) =
                (matches!(due.command, Command::SendUsageNotice { .. }), self.send(due).await);
            match sent {
                Ok(()) if is_notice => looked.noticed += 1,
                Ok(()) => looked.closed += 1,
                Err(error) => {
                    looked.refused += 1;
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "what an account's bills need was not done; it is asked for again");
                }
            }
        }
        Ok(looked)
    }

    fn due(&self, ledgers: &Billing, seen: &[SeenThrough], now: Timestamp, looked: &mut Looked) -> Vec<Due> {
        let mut due = Vec::new();
        for (account, ledger) in ledgers.iter() {
            match due_of((account, ledger), &self.plans, seen, now, looked) {
                Ok(some) => due.extend(some),
                Err(error) => {
                    tracing::error!(
                        plan = error.name,
                        "a plan that accounts are on is not in the plans file"
                    );
                    looked.refused += 1;
                }
            }
        }
        due
    }

    /// Sends one command; its time begins now, however long those before it took.
    async fn send(&self, Due { id, command }: Due) -> Result<(), SendError> {
        let at = (self.clock)();
        let (actor, deadline) = (Actor::System(Role::Commands), at.after(COMMAND_WITHIN));
        let sent = self.commands.send(Envelope { id, actor, at, deadline, command });
        let within = COMMAND_WITHIN.as_duration();
        tokio::time::timeout(within, sent).await.unwrap_or(Err(SendError::TimedOut)).map(drop)
    }
}

/// A command that is due. The same one again has the same id.
struct Due {
    id: CommandId,
    command: Command,
}

/// One statement at a time: the next month starts from it, once it is in the ledger.
fn due_of(
    (account, ledger): (AccountId, &Ledger),
    plans: &Plans,
    seen: &[SeenThrough],
    now: Timestamp,
    looked: &mut Looked,
) -> Result<Vec<Due>, UnknownPlan> {
    let named = move |label: &str, start: Timestamp, detail: u8, command| {
        let seed = [&account.as_bytes()[..], &start.0.to_be_bytes(), &[detail]].concat();
        Due { id: CommandId::derive(&seed, label), command }
    };
    let statement = statement_due(ledger, plans, now)?.map(|statement| {
        looked.behind = looked.behind.max(now.since(statement.end));
        let start = statement.start;
        let statement = Box::new(StatementClosed { seen: seen.to_vec(), ..statement });
        named("statement", start, 0, Command::CloseStatement { account, statement })
    });
    let notice = notice_due(ledger, plans, now)?.map(|noticed| {
        let (start, percent) = (noticed.start, noticed.percent);
        named("notice", start, percent, Command::SendUsageNotice { account, noticed })
    });
    Ok([statement, notice].into_iter().flatten().collect())
}

fn report(looked: &Looked) {
    metrics::gauge!("omnirun_billing_behind_seconds").set((looked.behind.0 / 1000) as f64);
    metrics::counter!("omnirun_billing_refused_total").increment(looked.refused as u64);
    if looked.behind >= LAG_ALARM {
        tracing::error!(
            days = looked.behind.0 / (24 * 3600 * 1000),
            "a month that ended long ago is not closed; its readings go on their 90th day, billed or not"
        );
    }
    if looked.closed > 0 {
        tracing::info!(count = looked.closed, "months were closed");
    }
}
