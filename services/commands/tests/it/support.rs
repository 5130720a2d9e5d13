//! A small world: one memory log, its key ring, a host that offers a template, a mailbox, a clock that only moves when told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use omnirun_billing::Plans;
use omnirun_commands::{CommandService, MasterKey, Parts, Random, StartError, random};
use omnirun_commands_api::command::{
    ClientNetwork, NO_CHALLENGE, NewCredential, Personal, SandboxWish, SealedField, TokenWish,
};
use omnirun_commands_api::mail::{Content, Mail, MailError, SendMail};
use omnirun_commands_api::{Command, Commands as _, Envelope, Outcome, Rejection, Reply, SendError};
use omnirun_events::account::EMAIL_FIELD;
use omnirun_events::auth::CodeProof;
use omnirun_events::envelope::{Actor, Draft, Head};
use omnirun_events::event::Event;
use omnirun_events::host::{HostJoined, HostTemplate};
use omnirun_events::id::CommandId;
use omnirun_events::keys::{Digest, KeyEnrolled};
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::sandbox::Network;
use omnirun_events::sealing::Sealed;
use omnirun_events::signing::Signer;
use omnirun_events::token::{Scope, TokenKind, TokenVerifier};
use omnirun_events::unit::Seconds;
use omnirun_events::*;
use omnirun_projections::Directory;
use omnirun_runner::{Follower, Source, follow};

use crate::recorder::{Recorded, Recorder};

pub const PATIENCE: Duration = Duration::from_secs(10);
pub const START: Timestamp = Timestamp(1_790_000_000_000);
pub const HOST: HostId = HostId::from_bytes([9; 16]);

/// Mails that were sent; the newest last.
#[derive(Default)]
pub struct Mailbox {
    mails: Mutex<Vec<Mail>>,
    arrived: tokio::sync::Notify,
}

#[async_trait]
impl SendMail for Mailbox {
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
        self.mails.lock().expect("no panics").push(mail);
        self.arrived.notify_waiters();
        Ok(())
    }
}

impl Mailbox {
    /// The code in mail number `n` (from 1), once it has arrived.
    pub async fn code(&self, n: usize) -> String {
        let wait = async {
            loop {
                let arrived = self.arrived.notified();
                if let Some(mail) = self.mails.lock().expect("no panics").get(n - 1) {
                    return mail.content.code().expect("a mail with a code").reveal().to_owned();
                }
                arrived.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the mail arrives")
    }

    /// Mail number `n` (from 1), once it has arrived.
    pub async fn mail(&self, n: usize) -> Mail {
        self.count(n).await;
        self.mails.lock().expect("no panics")[n - 1].clone()
    }

    /// The receipts that were sent, each with its recipient.
    pub fn receipts(&self) -> Vec<(String, String)> {
        let mails = self.mails.lock().expect("no panics");
        let receipt = |mail: &Mail| match &mail.content {
            Content::ErasureReceipt { document } => Some((mail.to.reveal().to_owned(), document.clone())),
            _ => None,
        };
        mails.iter().filter_map(receipt).collect()
    }

    /// Waits until so many mails have arrived.
    pub async fn count(&self, n: usize) {
        let wait = async {
            loop {
                let arrived = self.arrived.notified();
                if self.recipients().len() >= n {
                    return;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the mails arrive");
    }

    pub fn recipients(&self) -> Vec<String> {
        self.mails.lock().expect("no panics").iter().map(|mail| mail.to.reveal().to_owned()).collect()
    }
}

pub struct World {
    pub log: MemoryLog,
    pub now: Arc<AtomicU64>,
    pub mailbox: Arc<Mailbox>,
    pub root: Signer,
    pub worker: Signer,
    ids: AtomicU64,
}

/// One process: a service and the follower of its directory.
pub struct Process {
    pub service: Arc<CommandService>,
    pub follower: Follower<Directory>,
}

impl World {
    pub async fn new() -> Self {
        let world = Self {
            log: MemoryLog::default(),
            now: Arc::new(AtomicU64::new(START.0)),
            mailbox: Arc::default(),
            root: Signer::from_seed(&[1; 32], Role::Root),
            worker: Signer::from_seed(&[2; 32], Role::Worker),
            ids: AtomicU64::new(1),
        };
        let commands = commands_signer();
        let enrol = |signer: &Signer, role, host| KeyEnrolled {
            key: signer.id(),
            public: signer.public(),
            role,
            host,
        };
        world
            .append(
                &world.root,
                Actor::Operator,
                SubjectKind::KeyRing,
                enrol(&commands, Role::Commands, None),
            )
            .await;
        world
            .append(
                &world.root,
                Actor::Operator,
                SubjectKind::KeyRing,
                enrol(&world.worker, Role::Worker, Some(HOST)),
            )
            .await;
        let joined = HostJoined {
            address: "127.0.0.1:1".to_owned(),
            certificate: Digest([0; 32]),
            sandboxes_max: 100,
            vcpus_max: Vcpus(2),
            memory_max: Mebibytes(2048),
            monitor: "none".to_owned(),
            templates: vec![HostTemplate { name: "base".to_owned(), root: Digest([0; 32]) }],
        };
        world.as_worker(SubjectKind::Host(HOST), joined).await;
        world
    }

    /// Appends one event at the end of a subject, as `signer`.
    pub async fn append(
        &self,
        signer: &Signer,
        actor: Actor,
        subject: SubjectKind,
        event: impl Into<Event>,
    ) -> Sequence {
        let subject = Subject::from(subject);
        let last = self.log.last(&subject).await.expect("memory");
        let head = last.map_or(Head::EMPTY, |stored| {
            codec::decode(&stored.record).expect("a record").head(stored.sequence)
        });
        let commit = CommitId::from_bytes(random::bytes(&random::system()));
        let draft = Draft {
            commit,
            subject: subject.clone(),
            at: self.time(),
            actor,
            cause: None,
            events: vec![event.into()],
        };
        let record = signer.sign(&draft, &head).expect("small").bytes;
        let entry = Entry { subject, expected: head.sequence, commit, record };
        self.log.append_all(Batch::one(entry)).await.expect("nobody else writes there")[0]
    }

    pub async fn as_worker(&self, subject: SubjectKind, event: impl Into<Event>) -> Sequence {
        self.append(&self.worker, Actor::Host(HOST), subject, event).await
    }

    pub async fn process(&self) -> Process {
        self.process_with(Arc::new(self.log.clone())).await
    }

    pub async fn process_with(&self, append: Arc<dyn Append>) -> Process {
        self.process_of(|parts| Parts { append, ..parts }).await
    }

    /// A process whose every call to the log, the random source and the mail server is written down.
    pub async fn recorded(&self, recorder: &Recorder) -> Process {
        let (inner, recorder) = (self.log.clone(), recorder.clone());
        let noted = recorder.clone();
        let random: Random = Arc::new(move |buffer: &mut [u8]| {
            noted.note(format!("{} random bytes", buffer.len()));
            random::system()(buffer);
        });
        let mail = Arc::new(Recorded { inner: self.mailbox.clone(), recorder: recorder.clone() });
        let log = Arc::new(Recorded { inner, recorder });
        self.process_of(|parts| Parts { reader: log.clone(), append: log, random, mail, ..parts }).await
    }

    pub async fn process_of(&self, change: impl FnOnce(Parts) -> Parts) -> Process {
        self.try_process_of(change).await.expect("a readable log")
    }

    pub async fn try_process_of(&self, change: impl FnOnce(Parts) -> Parts) -> Result<Process, StartError> {
        let reader = Arc::new(self.log.clone());
        let follower = follow::<Directory>(reader.clone(), self.root.public(), Source::Events, None).await;
        let follower = follower.expect("a fresh log");
        let now = self.now.clone();
        let fixed: Random = Arc::new(|buffer: &mut [u8]| buffer.fill(7));
        let parts = change(Parts {
            append: reader.clone(),
            reader,
            erase: Arc::new(self.log.clone()),
            directory: follower.live(),
            signer: commands_signer(),
            master: MasterKey::ephemeral(&fixed),
            mail: self.mailbox.clone(),
            plans: Arc::new(plans()),
            clock: Arc::new(move || Timestamp(now.load(Ordering::SeqCst))),
            random: random::system(),
        });
        Ok(Process { service: CommandService::start(parts).await?, follower })
    }

    pub fn time(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    pub fn pass(&self, length: Millis) {
        self.now.fetch_add(length.0, Ordering::SeqCst);
    }

    pub fn set_back(&self, length: Millis) {
        self.now.fetch_sub(length.0, Ordering::SeqCst);
    }

    /// An envelope with a new id.
    pub fn envelope(&self, command: Command) -> Envelope {
        let n = self.ids.fetch_add(1, Ordering::SeqCst);
        let id = CommandId::derive(&n.to_be_bytes(), "test");
        let (at, actor) = (self.time(), Actor::System(Role::Gateway));
        Envelope { id, actor, at, deadline: at.after(Millis(30_000)), command }
    }

    /// Asks for a code, takes it from the mail, signs in with it.
    pub async fn sign_in(&self, process: &Process, email: &str) -> AccountId {
        let mails = self.mailbox.recipients().len();
        let challenge = process.ask_for_code(self, email).await;
        let code = self.mailbox.code(mails + 1).await;
        match process
            .send(self.envelope(verify(email, Some(challenge), &code)))
            .await
            .expect("right code")
            .outcome
        {
            Outcome::SignedIn { account, .. } => account,
            other => panic!("not signed in: {other:?}"),
        }
    }
}

impl Process {
    pub async fn send(&self, envelope: Envelope) -> Result<Reply, Rejection> {
        match self.service.send(envelope).await {
            Ok(reply) => Ok(reply),
            Err(SendError::Rejected(rejection)) => Err(rejection),
            Err(other) => panic!("no answer: {other}"),
        }
    }

    pub async fn ask_for_code(&self, world: &World, email: &str) -> ChallengeId {
        challenge_of(
            self.send(world.envelope(request_code(email))).await.expect("the same for every address"),
        )
    }

    /// The directory once it has everything in the log.
    pub async fn view<R>(&self, world: &World, read: impl FnOnce(&Directory) -> R) -> R {
        let live = self.follower.live();
        let head = world.log.head(Log::Events).await.expect("memory");
        live.reached(head, PATIENCE).await.expect("it follows");
        live.view(|directory, _| read(directory))
    }
}

pub fn challenge_of(reply: Reply) -> ChallengeId {
    match reply.outcome {
        Outcome::CodeRequested { challenge, .. } => challenge,
        other => panic!("no challenge: {other:?}"),
    }
}

pub fn commands_signer() -> Signer {
    Signer::from_seed(&[3; 32], Role::Commands)
}

/// The project's plans with small limits on the first one.
pub fn plans() -> Plans {
    let text = include_str!("../../../../infra/plans.toml");
    Plans::parse(&text.replacen("concurrency = 20", "concurrency = 5", 1)).expect("valid")
}

pub fn request_code(email: &str) -> Command {
    Command::RequestCode { email: Personal::new(email), bind: None, network: None }
}

/// The same from a network.
pub fn from_network(command: Command, n: u8) -> Command {
    let from = Some(ClientNetwork::V4([192, 0, n]));
    match command {
        Command::RequestCode { email, bind, .. } => Command::RequestCode { email, bind, network: from },
        Command::VerifyCode { email, challenge, proof, page_secret, kind, credential, .. } => {
            Command::VerifyCode { email, challenge, proof, page_secret, network: from, kind, credential }
        }
        other => other,
    }
}

pub fn credential() -> NewCredential {
    let verifier = TokenVerifier(random::bytes(&random::system()));
    NewCredential { verifier, hint: "abc123".to_owned() }
}

pub fn verify(email: &str, challenge: Option<ChallengeId>, code: &str) -> Command {
    Command::VerifyCode {
        email: Personal::new(email),
        challenge,
        proof: CodeProof::of(challenge.unwrap_or(NO_CHALLENGE), code),
        page_secret: None,
        network: None,
        kind: TokenKind::Session,
        credential: credential(),
    }
}

/// An account's sealed address as a field to be opened.
pub fn email_field(account: AccountId, sealed: Sealed) -> SealedField {
    SealedField { subject: SubjectKind::Account(account).into(), field: EMAIL_FIELD.to_owned(), sealed }
}

/// A code of the right form that is not `code`.
pub fn wrong(code: &str) -> String {
    let number: u32 = code.parse().expect("digits");
    format!("{:06}", (number + 1) % 1_000_000)
}

pub fn sandbox_wish() -> SandboxWish {
    SandboxWish {
        template: "base".to_owned(),
        vcpus: None,
        memory: None,
        timeout: Seconds(300),
        network: Network::Off,
        metadata: Some(Personal::new("{\"name\":\"mine\"}")),
    }
}

pub fn token_wish() -> TokenWish {
    TokenWish {
        name: Personal::new("build server"),
        scopes: Scope::DEFAULT.to_vec(),
        expires_in_days: Some(30),
    }
}
