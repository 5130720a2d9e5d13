//! The service: what it is made of, and one command from arrival to answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use omnirun_billing::Plans;
use omnirun_commands_api::mail::SendMail;
use omnirun_commands_api::{Code, Command, Commands, Envelope, Rejection, Reply, SendError};
use omnirun_events::envelope::Actor;
use omnirun_events::id::{AccountId, CommitId};
use omnirun_events::log::{Append, Erase, Read};
use omnirun_events::signing::Signer;
use omnirun_events::subject::Log;
use omnirun_events::unit::Clock;
use omnirun_projections::Directory;
use omnirun_runner::Live;
use tokio::sync::{Mutex, MutexGuard};

use crate::challenges::Challenges;
use crate::decide::not_found;
use crate::erasure::Erasing;
use crate::failure::Failure;
use crate::guesses::Guesses;
use crate::handle::Presented;
use crate::index::AddressIndex;
use crate::keys::DataKeys;
use crate::limits::CodeLimits;
use crate::master::MasterKey;
use crate::outbox::Outbox;
use crate::random::{self, Random};
use crate::reconcile;
use crate::tries::WrongTries;
use crate::unsent::Unsent;
use crate::writer::Writer;

/// How long a start may take until the directory has read the log.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(600);

/// Accounts share this many turns; two accounts that share one wait for each other, which is rare and harmless.
const TURNS: usize = 64;

/// What a commands service is made of.
pub struct Parts {
    /// Reads EVENTS, KEYS and AUTH.
    pub reader: Arc<dyn Read>,
    /// Appends to them.
    pub append: Arc<dyn Append>,
    /// Destroys keys, and removes what was erased.
    pub erase: Arc<dyn Erase>,
    /// The directory, being followed from the same store.
    pub directory: Live<Directory>,
    /// Signs, in the role Commands; its key is enrolled.
    pub signer: Signer,
    /// Wraps data keys and derives codes.
    pub master: MasterKey,
    /// Where mails are handed over.
    pub mail: Arc<dyn SendMail>,
    /// What accounts may use.
    pub plans: Arc<Plans>,
    /// The time.
    pub clock: Clock,
    /// Random bytes: [`crate::random::system`].
    pub random: Random,
}

/// Why a commands service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be read to its end, or a key is missing; the log tells which.
    #[error("cannot {what}: {message}")]
    NotReady {
        /// What was tried.
        what: &'static str,
        /// Why not.
        message: String,
    },
}

/// Handles commands. Share it in an [`Arc`].
pub struct CommandService {
    pub(crate) writer: Arc<Writer>,
    pub(crate) keys: Arc<DataKeys>,
    pub(crate) index: AddressIndex,
    pub(crate) challenges: Challenges,
    pub(crate) limits: CodeLimits,
    pub(crate) guesses: Guesses,
    pub(crate) tries: WrongTries,
    pub(crate) unsent: Unsent,
    pub(crate) outbox: Outbox,
    pub(crate) erasing: Erasing,
    pub(crate) master: Arc<MasterKey>,
    pub(crate) plans: Arc<Plans>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// Rotations of the master key go one after the other.
    pub(crate) rotating: Mutex<()>,
    turns: [Mutex<()>; TURNS],
}

impl CommandService {
    /// Starts the service: waits until the directory has read the log and opens every account's address. Needs a tokio runtime.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, StartError> {
        let Parts { reader, append, erase, directory, signer, master, mail, plans, clock, random } = parts;
        let not_ready = |what| move |error: String| StartError::NotReady { what, message: error };
        let head = reader.head(Log::Events).await.map_err(|error| error.to_string());
        let head = head.map_err(not_ready("read the event log"))?;
        let reached = directory.reached(head, CATCH_UP_WITHIN).await.map_err(|error| error.to_string());
        reached.map_err(not_ready("follow the event log"))?;
        let master = Arc::new(master);
        let writer = Arc::new(Writer { reader, append, directory: directory.clone(), signer });
        let keys =
            DataKeys::new(writer.clone(), erase.clone(), master.clone(), random.clone(), clock.clone());
        let keys = Arc::new(keys);
        let index = AddressIndex::new(directory, keys.clone());
        index
            .sync()
            .await
            .map_err(|failure| not_ready("open the accounts' addresses")(format!("{failure:?}")))?;
        let challenges = Challenges::new(writer.clone());
        let erasing = Erasing::new(erase, mail.clone());
        let outbox = Outbox::start(mail);
        let turns = std::array::from_fn(|_| Mutex::default());
        let (limits, guesses, tries) = (CodeLimits::default(), Guesses::default(), WrongTries::default());
        Ok(Arc::new(Self {
            writer,
            keys,
            index,
            challenges,
            limits,
            guesses,
            tries,
            unsent: Unsent::default(),
            outbox,
            erasing,
            master,
            plans,
            clock,
            random,
            rotating: Mutex::default(),
            turns,
        }))
    }

    /// Does what time decides, until it is dropped: see [`crate::reconcile`]. Run it once per service.
    pub async fn reconcile(self: Arc<Self>) {
        reconcile::run(self).await;
    }

    /// Handles one command.
    pub async fn handle(&self, envelope: Envelope) -> Result<Reply, Failure> {
        let (command, started) = (envelope.command.subject(), Instant::now());
        let result = self.answer(&envelope).await;
        let outcome = match &result {
            Ok(_) => "done",
            Err(Failure::Unknown) => "unknown",
            Err(Failure::Rejected(rejection)) if rejection.code == Code::Busy => "busy",
            Err(Failure::Rejected(_)) => "rejected",
        };
        metrics::counter!("omnirun_commands_total", "command" => command, "outcome" => outcome).increment(1);
        metrics::histogram!("omnirun_commands_seconds", "command" => command)
            .record(started.elapsed().as_secs_f64());
        result
    }

    async fn answer(&self, envelope: &Envelope) -> Result<Reply, Failure> {
        let left = envelope.deadline.since((self.clock)());
        if left.0 == 0 {
            let message = "The request was too late to be handled; nothing was done. Try again.";
            return Err(Rejection::retryable(Code::DeadlinePassed, message, left).into());
        }
        self.allow(envelope)?;
        self.dispatch(envelope).await
    }

    /// An account's owner speaks for that account alone, and not about what it owes.
    fn allow(&self, envelope: &Envelope) -> Result<(), Rejection> {
        match (envelope.actor, account_of(&envelope.command)) {
            (Actor::Account(_), _) if is_for_the_system(&envelope.command) => Err(not_found()),
            (Actor::Account(actor), Some(account)) if actor != account => Err(not_found()),
            _ => Ok(()),
        }
    }

    async fn dispatch(&self, envelope: &Envelope) -> Result<Reply, Failure> {
        match &envelope.command {
            Command::RequestCode { email, bind, network } => {
                self.request_code(envelope, email, *bind, *network).await
            }
            Command::VerifyCode { email, challenge, proof, page_secret, network, kind, credential } => {
                let (page_secret, network) = (page_secret.as_ref(), *network);
                let presented = Presented { challenge: *challenge, proof: *proof, page_secret, network };
                self.verify_code(envelope, email, presented, *kind, credential).await
            }
            Command::RequestEmailChange { account, email, network } => {
                self.request_email_change(envelope, *account, email, *network).await
            }
            Command::ChangeEmail { account, email, challenge, proof } => {
                let challenge = Some(*challenge);
                let presented = Presented { challenge, proof: *proof, page_secret: None, network: None };
                self.change_email(envelope, *account, email, presented).await
            }
            Command::CreateToken { account, wish, credential } => {
                self.create_token(envelope, *account, wish, credential).await
            }
            Command::RevokeToken { account, token, reason } => {
                self.revoke_token(envelope, *account, *token, *reason).await
            }
            Command::SignOutEverywhere { account } => self.sign_out_everywhere(envelope, *account).await,
            Command::RequestSandbox { account, wish } => self.request_sandbox(envelope, *account, wish).await,
            Command::StopSandbox { account, sandbox } => {
                self.stop_sandbox(envelope, *account, *sandbox).await
            }
            Command::ExtendTimeout { account, sandbox, timeout } => {
                self.extend_timeout(envelope, *account, *sandbox, *timeout).await
            }
            Command::PauseSandbox { account, sandbox } => {
                self.pause_sandbox(envelope, *account, *sandbox).await
            }
            Command::ResumeSandbox { account, sandbox } => {
                self.resume_sandbox(envelope, *account, *sandbox).await
            }
            Command::LoseHost { host, operator, reason } => {
                self.lose_host(envelope, *host, operator, reason).await
            }
            Command::CloseAccount { account, confirm } => {
                self.close_account(envelope, *account, confirm).await
            }
            Command::EraseAccount { whose, operator, reason } => {
                self.erase_account(envelope, whose, operator, reason).await
            }
            Command::RotateMasterKey => self.rotate_on_demand(envelope.actor).await,
            Command::PlanRetention => self.plan_retention(envelope.actor).await,
            Command::ApplyRetention { plan } => self.apply_retention(envelope.actor, *plan).await,
            Command::ChangePlan { account, plan } => self.change_plan(envelope, *account, plan).await,
            Command::RecordOperator { whose, acted } => {
                self.record_operator(envelope, whose.as_ref(), acted).await
            }
            Command::CloseStatement { account, statement } => {
                self.close_statement(envelope, *account, statement).await
            }
            Command::CorrectStatement { account, corrected } => {
                self.correct_statement(envelope, *account, corrected).await
            }
            Command::SendUsageNotice { account, noticed } => {
                self.send_usage_notice(envelope, *account, noticed).await
            }
            Command::SignExport { account, manifest } => self.sign_export(*account, *manifest).await,
            Command::OpenFields { account, fields } => self.open_fields(*account, fields).await,
        }
    }

    /// Waits for an account's turn to have its limits decided.
    pub(crate) async fn turn(&self, account: AccountId) -> MutexGuard<'_, ()> {
        self.turns[usize::from(account.as_bytes()[0]) % TURNS].lock().await
    }

    /// A commit id for what is never repeated.
    pub(crate) fn fresh_commit(&self) -> CommitId {
        CommitId::from_bytes(random::bytes(&self.random))
    }
}

/// Whether only parts of the system and operators may ask for it.
fn is_for_the_system(command: &Command) -> bool {
    matches!(
        command,
        Command::CloseStatement { .. }
            | Command::CorrectStatement { .. }
            | Command::SendUsageNotice { .. }
            | Command::ChangePlan { .. }
    )
}

/// The account that a command is about, where it names one.
fn account_of(command: &Command) -> Option<AccountId> {
    match command {
        Command::RequestCode { .. }
        | Command::VerifyCode { .. }
        | Command::EraseAccount { .. }
        | Command::LoseHost { .. }
        | Command::RotateMasterKey
        | Command::PlanRetention
        | Command::ApplyRetention { .. }
        | Command::RecordOperator { .. } => None,
        Command::RequestEmailChange { account, .. }
        | Command::ChangeEmail { account, .. }
        | Command::CreateToken { account, .. }
        | Command::RevokeToken { account, .. }
        | Command::SignOutEverywhere { account }
        | Command::RequestSandbox { account, .. }
        | Command::StopSandbox { account, .. }
        | Command::PauseSandbox { account, .. }
        | Command::ResumeSandbox { account, .. }
        | Command::ExtendTimeout { account, .. }
        | Command::CloseStatement { account, .. }
        | Command::CorrectStatement { account, .. }
        | Command::SendUsageNotice { account, .. }
        | Command::ChangePlan { account, .. }
        | Command::CloseAccount { account, .. }
        | Command::SignExport { account, .. }
        | Command::OpenFields { account, .. } => Some(*account),
    }
}

#[async_trait]
impl Commands for CommandService {
    async fn send(&self, envelope: Envelope) -> Result<Reply, SendError> {
        let left = envelope.deadline.since((self.clock)()).as_duration();
        match tokio::time::timeout(left, self.handle(envelope)).await {
            Ok(result) => Ok(result?),
            // It had a deadline to begin with: what it has appended by now, a retry finds.
            Err(_) if left > Duration::ZERO => Err(SendError::TimedOut),
            Err(_) => Err(Failure::from(late()).into()),
        }
    }
}

fn late() -> Rejection {
    Rejection::new(
        Code::DeadlinePassed,
        "The request was too late to be handled; nothing was done. Try again.",
    )
}
