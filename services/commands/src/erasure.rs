//! Erasing an account, step by step. Each step is an event, so that whoever starts goes on where the last one stopped; doing a step twice is
//! doing it once.
//!
//! ```text
//!   AccountClosing    nothing is admitted, every credential is dead
//!   AccountQuiet      every sandbox is final and no host may claim one any more
//!                     every host has said that it has nothing more to say (HostCaughtUp)
//!   ReceiptIssued     the person was told what will be destroyed, as long as their address can still be opened
//!                     (what wraps the vault's key goes here, before the account's own keys)
//!                     the account's wrapped keys are overwritten and purged: from here on nothing can be read
//!   AccountClosed     every read model drops the account
//!   RecordsErased     tombstones: positions, and the receipt
//!                     the records are purged
//!   ErasureFinished
//! ```
//!
//! Until AccountClosed the account's own subject says where it stands. After it nothing on the log may say whose records are left, so they are
//! looked for: subjects of accounts that are not there ([`bury`]), and tombstones that nobody has finished.

mod bury;
mod receipt;
mod remove;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use omnirun_commands_api::Outcome;
use omnirun_commands_api::command::Personal;
use omnirun_commands_api::mail::{Content, Mail, MailError, SendMail};
use omnirun_events::account::{AccountClosed, AccountQuiet, EMAIL_FIELD, ReceiptIssued, ReceiptMail};
use omnirun_events::envelope::{Actor, Draft, Role};
use omnirun_events::event::Event;
use omnirun_events::id::{AccountId, ChallengeId, CommandId, ReceiptId, SandboxId};
use omnirun_events::log::{Erase, Sequence, read_to_end};
use omnirun_events::subject::{Filter, Log, Subject, SubjectKind};
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_projections::Directory;
use omnirun_projections::accounts::Closing;
use omnirun_projections::sandboxes::{Sandbox, State};

use crate::address::Address;
use crate::decide::{Decision, Wish, stop};
use crate::failure::Failure;
use crate::service::CommandService;

/// How long an account is closing at least: every gateway and every commands service sees it in that time.
const CLOSING_MIN: Millis = Millis(3_000);

/// How long after its end a sandbox counts as gone although its host has not said so: the host is lost. Owner processes end their guests
/// without it.
const LOST_AFTER: Millis = Millis(15 * 60 * 1000);

/// How long a host may take to say that it has nothing more to say. What a lost one says later is removed when it comes.
const HOSTS_WITHIN: Millis = Millis(60 * 60 * 1000);

/// How long the mail server is asked to take the receipt, and the pause between two tries.
const MAIL_WITHIN: Millis = Millis(10 * 60 * 1000);
const MAIL_AGAIN: Millis = Millis(15_000);

/// Time between two looks for records of accounts that are not there: what late hosts have said.
const LOOK_EVERY: Millis = Millis(60_000);

/// How long after an account was closed this process looks for late meters of it.
const LATE_WITHIN: Millis = Millis(24 * 3600 * 1000);

/// How long one try may take: others wait with their next step until it is over.
const MAIL_PATIENCE: Duration = Duration::from_secs(20);

/// Accounts that are closed beside each other.
const TOGETHER: usize = 8;

/// Nobody waits for the answer to a step.
const NOTHING: Outcome = Outcome::FieldsOpened(Vec::new());

/// What the process needs beside the service's other parts.
pub(crate) struct Erasing {
    pub erase: Arc<dyn Erase>,
    pub mail: Arc<dyn SendMail>,
    /// When the next try to send a receipt is due.
    mails: Mutex<HashMap<ReceiptId, Timestamp>>,
    looked: Mutex<Looked>,
}

/// What was looked at last.
#[derive(Debug, Default)]
struct Looked {
    /// When records of accounts that are not there were looked for; none if it is time to.
    at: Option<Timestamp>,
    /// The accounts that this process closed lately, and when. Memory only.
    closed: HashMap<AccountId, Timestamp>,
}

impl Erasing {
    pub fn new(erase: Arc<dyn Erase>, mail: Arc<dyn SendMail>) -> Self {
        Self { erase, mail, mails: Mutex::default(), looked: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked_at(&self) -> Option<Timestamp> {
        self.lock().at
    }

    fn has_looked(&self, at: Timestamp) {
        self.lock().at = Some(at);
    }

    /// An account was closed here: it is time to look.
    fn has_closed(&self, account: AccountId, at: Timestamp) {
        let mut looked = self.lock();
        looked.at = None;
        looked.closed.insert(account, at);
    }
}

/// A step that the account's subject tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Quiet,
    Receipt,
    Closed,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "erasure/quiet",
            Self::Receipt => "erasure/receipt",
            Self::Closed => "erasure/closed",
        }
    }

    /// Whether it is done.
    fn is_done(self, directory: &Directory, account: AccountId) -> bool {
        let closing = directory.accounts.get(account).and_then(|account| account.closing.as_ref());
        closing.is_none_or(|closing| match self {
            Self::Quiet => closing.quiet_at.is_some(),
            Self::Receipt => closing.is_receipt_issued,
            Self::Closed => false,
        })
    }
}

impl CommandService {
    /// Takes every erasure as far as it can go now; answers how many accounts are still closing.
    pub async fn go_on_erasing(&self) -> Result<usize, Failure> {
        let closing: Vec<(AccountId, Closing)> = self.writer.directory.view(|directory, _| {
            directory.accounts.closing().map(|(id, closing)| (id, closing.clone())).collect()
        });
        let count = closing.len();
        // Beside each other, for each may wait for the mail server.
        let steps = closing.into_iter().map(|(account, closing)| self.close_further(account, closing));
        stream::iter(steps).buffer_unordered(TOGETHER).collect::<()>().await;
        self.forget_closed();
        self.bury_strays().await?;
        self.remove_buried().await?;
        Ok(count)
    }

    async fn close_further(&self, account: AccountId, closing: Closing) {
        self.challenges.forget_account(account);
        self.or_later(self.go_on_closing(account, &closing).await);
    }

    /// One erasure that cannot go on keeps no other from it; the next look tries again.
    fn or_later(&self, step: Result<(), Failure>) {
        if step.is_err() {
            metrics::counter!("omnirun_erasures_stuck_total").increment(1);
            tracing::warn!("an erasure cannot go on now; the line before says why, and it is tried again");
        }
    }

    async fn go_on_closing(&self, account: AccountId, closing: &Closing) -> Result<(), Failure> {
        let Some(quiet_at) = closing.quiet_at else { return self.quieten(account, closing).await };
        if !self.has_been_told_everything(quiet_at, closing) {
            return Ok(());
        }
        if !closing.is_receipt_issued && !self.issue_receipt(account, closing).await? {
            return Ok(());
        }
        self.destroy_keys(account).await?;
        self.say(account, Step::Closed, AccountClosed { receipt: closing.receipt }).await?;
        self.erasing.has_closed(account, (self.clock)());
        Ok(())
    }

    /// Ends every sandbox, and says so once all are final.
    async fn quieten(&self, account: AccountId, closing: &Closing) -> Result<(), Failure> {
        let now = (self.clock)();
        let sandboxes: Vec<(SandboxId, Sandbox)> = self.writer.directory.view(|directory, _| {
            directory.sandboxes.of(account).map(|(id, sandbox)| (id, sandbox.clone())).collect()
        });
        for (id, sandbox) in &sandboxes {
            if !sandbox.state.is_final() && sandbox.state != State::Stopping {
                let subject = SubjectKind::Sandbox(account, *id).into();
                let wish = self.wish(account, CommandId::derive(id.as_bytes(), "erasure/stop"));
                self.writer.run(&[subject], |directory| stop::decide(directory, &wish, *id)).await?;
            }
        }
        let is_over = sandboxes.iter().all(|(_, sandbox)| is_over(sandbox, now));
        if !is_over || now.since(closing.since) < CLOSING_MIN {
            return Ok(());
        }
        self.say(account, Step::Quiet, AccountQuiet {}).await
    }

    /// Whether every host that takes requests has said all that it will ever say about what was final at `quiet_at`.
    fn has_been_told_everything(&self, quiet_at: Sequence, closing: &Closing) -> bool {
        let now = (self.clock)();
        self.writer.directory.view(|directory, verifier| {
            let is_believed =
                |id| verifier.ring().current(Role::Worker).any(|(_, entry)| entry.host == Some(id));
            let silent =
                directory.hosts.present().filter(|(id, host)| host.caught_up < quiet_at && is_believed(*id));
            let count = silent.count();
            let is_lost = now.since(closing.since) > HOSTS_WITHIN;
            if count > 0 && is_lost {
                tracing::warn!(count, "an erasure goes on without hosts that did not answer for an hour");
            }
            count == 0 || is_lost
        })
    }

    /// Sends the receipt, while the address can still be opened; whether this step is done.
    async fn issue_receipt(&self, account: AccountId, closing: &Closing) -> Result<bool, Failure> {
        let now = (self.clock)();
        let mails = || self.erasing.mails.lock().unwrap_or_else(PoisonError::into_inner);
        if mails().get(&closing.receipt).is_some_and(|due| now < *due) {
            return Ok(false);
        }
        let mail = match self.opened_address(account).await? {
            None => ReceiptMail::GivenUp,
            Some(address) => {
                let document = self.receipt(account, closing).await?;
                let to = Personal::new(address.as_str());
                let mail = Mail { to, content: Content::ErasureReceipt { document } };
                let sent = tokio::time::timeout(MAIL_PATIENCE, self.erasing.mail.send_mail(mail)).await;
                match sent.unwrap_or(Err(MailError::Temporary)) {
                    Ok(()) => ReceiptMail::Sent,
                    Err(MailError::Temporary | MailError::NoResponders)
                        if now.since(closing.since) < MAIL_WITHIN =>
                    {
                        mails().insert(closing.receipt, now.after(MAIL_AGAIN));
                        return Ok(false);
                    }
                    Err(error) => {
                        tracing::warn!(reason = %error, receipt = %closing.receipt, "a receipt could not be sent");
                        ReceiptMail::GivenUp
                    }
                }
            }
        };
        mails().remove(&closing.receipt);
        self.say(account, Step::Receipt, ReceiptIssued { mail }).await?;
        Ok(true)
    }

    /// Destroys what opens the account's sealed fields: in the log, in memory, and the codes that were on their way to its address.
    async fn destroy_keys(&self, account: AccountId) -> Result<(), Failure> {
        self.use_up_challenges(account).await?;
        self.keys.forget(account);
        self.erasing.erase.purge_all(Log::Keys, Filter::keys_of(account)).await?;
        // A key that another task was reading at that moment.
        self.keys.forget(account);
        self.index.forget(account);
        Ok(())
    }

    /// A code that was asked for before the account was closing opens it no more.
    async fn use_up_challenges(&self, account: AccountId) -> Result<(), Failure> {
        self.challenges.forget_account(account);
        let issued =
            read_to_end(self.writer.reader.as_ref(), Log::Auth, Filter::challenges(), Sequence::NONE).await?;
        let challenges: Vec<ChallengeId> = issued
            .iter()
            .filter_map(|stored| match stored.subject.kind() {
                SubjectKind::ChallengeIssued(challenge) => Some(challenge),
                _ => None,
            })
            .collect();
        for challenge in challenges {
            let issued = self.challenges.issued(challenge).await?;
            if issued.is_some_and(|issued| issued.account == account) {
                self.challenges.use_up(challenge, self.fresh_commit(), (self.clock)()).await?;
            }
        }
        Ok(())
    }

    /// The account's address, while it can be opened.
    pub(crate) async fn opened_address(&self, account: AccountId) -> Result<Option<Address>, Failure> {
        let email = self
            .writer
            .directory
            .view(|directory, _| directory.accounts.get(account).map(|account| account.email.clone()));
        let Some(email) = email else { return Ok(None) };
        let subject = SubjectKind::Account(account).into();
        let opened = self.keys.open(account, &email, &subject, EMAIL_FIELD).await?;
        Ok(opened.and_then(|text| Address::parse(text.reveal()).ok()))
    }

    /// Appends a step to the account's subject, unless somebody else did.
    async fn say(&self, account: AccountId, step: Step, event: impl Into<Event>) -> Result<(), Failure> {
        let subject = Subject::from(SubjectKind::Account(account));
        let wish = self.wish(account, CommandId::derive(account.as_bytes(), step.name()));
        let draft = wish.draft(SubjectKind::Account(account), event);
        let decide = |directory: &Directory| {
            Ok(match step.is_done(directory, account) {
                true => Decision::Already(NOTHING),
                false => Decision::Write(vec![draft.clone()], NOTHING),
            })
        };
        let reply = self.writer.run(&[subject], decide).await?;
        if let Some(position) = reply.position {
            self.writer.reach_position(position.sequence).await?;
        }
        Ok(())
    }

    fn wish(&self, account: AccountId, id: CommandId) -> Wish {
        Wish { id, account, actor: Actor::System(Role::Commands), now: (self.clock)() }
    }

    /// Drops what this process still knows of accounts that are not there: another one may have closed them.
    fn forget_closed(&self) {
        let gone = self
            .writer
            .directory
            .view(|directory, _| self.index.retain(|account| directory.accounts.get(account).is_some()));
        gone.into_iter().for_each(|account| self.challenges.forget_account(account));
    }

    /// Appends one event to `sys.erasure`; answers with its position.
    pub(crate) async fn append_to_erasure(&self, event: Event) -> Result<Sequence, Failure> {
        let subject = Subject::from(SubjectKind::Erasure);
        let draft = Draft {
            commit: self.fresh_commit(),
            subject: subject.clone(),
            at: (self.clock)(),
            actor: Actor::System(Role::Commands),
            cause: None,
            events: vec![event],
        };
        let decide = |_: &Directory| Ok(Decision::Write(vec![draft.clone()], NOTHING));
        let reply = self.writer.run(&[subject], decide).await?;
        let sequence = reply.position.map(|position| position.sequence).unwrap_or_default();
        self.writer.reach_position(sequence).await?;
        Ok(sequence)
    }
}

/// Whether a sandbox can do nothing any more, or its host is lost and its time is over.
fn is_over(sandbox: &Sandbox, now: Timestamp) -> bool {
    if sandbox.state.is_final() {
        // A host that has not seen its end may still try to claim it, until the request's deadline.
        return sandbox.host.is_some() || now > sandbox.deadline;
    }
    let end = sandbox.end_at.unwrap_or(sandbox.deadline.after(sandbox.timeout.into()));
    now > end.after(LOST_AFTER)
}
