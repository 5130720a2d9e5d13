//! A data directory in which things happened long ago: the services' own code on a real embedded log, by a clock that is told.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use omnirun_billing::Plans;
use omnirun_commands::{CommandService, MasterKey, Parts};
use omnirun_commands_api::command::{NewCredential, Personal, SandboxWish};
use omnirun_commands_api::mail::{Content, Mail, MailError, SendMail};
use omnirun_commands_api::{Command, Commands as _, Envelope, Outcome};
use omnirun_events::auth::CodeProof;
use omnirun_events::envelope::{Draft, Head};
use omnirun_events::host::{HostJoined, HostTemplate};
use omnirun_events::id::CommandId;
use omnirun_events::keys::Digest;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Append as _, Batch, Entry, Read as _};
use omnirun_events::sandbox::*;
use omnirun_events::signing::Signer;
use omnirun_events::token::{TokenKind, TokenVerifier};
use omnirun_events::unit::Seconds;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::*;
use omnirun_ops::identity;
use omnirun_projections::Directory;
use omnirun_runner::{Follower, Source, follow};
use omnirun_sled::{EmbeddedLog, SledLog};

pub const DAY: u64 = 24 * 3600 * 1000;

/// Mails, which hold codes.
#[derive(Default)]
struct Mailbox(Mutex<Vec<String>>);

#[async_trait]
impl SendMail for Mailbox {
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
        if let Content::SignInCode { code, .. } = mail.content {
            self.0.lock().expect("no panic").push(code.reveal().to_owned());
        }
        Ok(())
    }
}

/// A data directory whose services run by a clock of the test's. Close it before somebody else opens it.
pub struct LongAgo {
    pub service: Arc<CommandService>,
    pub directory: Follower<Directory>,
    pub store: Arc<EmbeddedLog>,
    now: Arc<AtomicU64>,
    worker: (HostId, Signer),
    mails: Arc<Mailbox>,
    asked: u64,
}

impl LongAgo {
    /// Opens `data`, with new keys if it has none.
    pub async fn open(data: &Path, now: Timestamp) -> Result<Self> {
        if !identity::exists(data) {
            std::fs::create_dir_all(data)?;
            let make_master = |keys: &Path| {
                MasterKey::create(&keys.join("master.key")).map(drop).map_err(std::io::Error::other)
            };
            identity::create_with(data, make_master)?;
        }
        let (keys, master) = (identity::load(data)?, MasterKey::load(&data.join("keys/master.key"))?);
        let kept = SledLog::open(&data.join("log"), omnirun_sled::Options::default())?;
        let store = Arc::new(EmbeddedLog::new(kept, MemoryLog::default()));
        identity::enrol(&*store, &*store, &keys, now).await?;
        let directory = follow::<Directory>(store.clone(), keys.root, Source::Events, None).await?;
        let (mails, now) = (Arc::new(Mailbox::default()), Arc::new(AtomicU64::new(now.0)));
        let clock = now.clone();
        let service = CommandService::start(Parts {
            reader: store.clone(),
            append: store.clone(),
            erase: store.clone(),
            directory: directory.live(),
            signer: keys.commands,
            master,
            mail: mails.clone(),
            plans: Arc::new(Plans::parse(include_str!("../../infra/plans.toml"))?),
            clock: Arc::new(move || Timestamp(clock.load(Ordering::SeqCst))),
            random: omnirun_commands::random::system(),
        })
        .await?;
        Ok(Self { service, directory, store, now, worker: keys.worker, mails, asked: 0 })
    }

    /// Leaves everything on disk.
    pub async fn close(self) -> Result<()> {
        drop(self.service);
        self.directory.stop().await;
        Ok(self.store.kept().close()?)
    }

    pub fn time(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    pub fn set_time(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::SeqCst);
    }

    async fn ask(&mut self, command: Command) -> Result<Outcome> {
        self.asked += 1;
        let id = CommandId::derive(&[self.asked.to_be_bytes(), self.time().0.to_be_bytes()].concat(), "test");
        let (at, actor) = (self.time(), Actor::System(Role::Gateway));
        let envelope = Envelope { id, actor, at, deadline: at.after(Millis(30_000)), command };
        Ok(self.service.send(envelope).await?.outcome)
    }

    /// Opens an account, and has a host that offers `base`.
    pub async fn account(&mut self, email: &str) -> Result<AccountId> {
        let joined = HostJoined {
            address: "127.0.0.1:1".to_owned(),
            certificate: Digest([0; 32]),
            sandboxes_max: 100,
            vcpus_max: Vcpus(2),
            memory_max: Mebibytes(2048),
            monitor: "none".to_owned(),
            templates: vec![HostTemplate { name: "base".to_owned(), root: Digest([0; 32]) }],
        };
        self.say(SubjectKind::Host(self.worker.0), joined).await?;
        let address = || Personal::new(email);
        let ask = Command::RequestCode { email: address(), bind: None, network: None };
        let Outcome::CodeRequested { challenge, .. } = self.ask(ask).await? else { bail!("no challenge") };
        let find = || self.mails.0.lock().expect("no panic").last().cloned();
        let code = omnirun_test_support::wait_until(std::time::Duration::from_secs(10), find);
        let verify = Command::VerifyCode {
            email: address(),
            challenge: Some(challenge),
            proof: CodeProof::of(challenge, &code.context("the mail has come")?),
            page_secret: None,
            network: None,
            kind: TokenKind::Cli,
            credential: NewCredential { verifier: TokenVerifier([7; 32]), hint: "abc123".to_owned() },
        };
        let Outcome::SignedIn { account, .. } = self.ask(verify).await? else { bail!("not signed in") };
        Ok(account)
    }

    /// Says something as the host does.
    async fn say(&self, kind: SubjectKind, event: impl Into<Event>) -> Result<()> {
        let subject = Subject::from(kind);
        let head = match self.store.last(&subject).await? {
            Some(stored) => codec::decode(&stored.record)?.head(stored.sequence),
            None => Head::EMPTY,
        };
        let commit = CommitId::derive(&head.version.to_be_bytes(), subject.as_str());
        let (at, actor) = (self.time(), Actor::Host(self.worker.0));
        let draft =
            Draft { commit, subject: subject.clone(), at, actor, cause: None, events: vec![event.into()] };
        let record = self.worker.1.sign(&draft, &head)?.bytes;
        let entry = Entry { subject, expected: head.sequence, commit, record };
        self.store.append_all(Batch::one(entry)).await?;
        Ok(())
    }

    /// A sandbox that ran for a minute at this time, with this free text.
    pub async fn sandbox(&mut self, account: AccountId, text: &str) -> Result<SandboxId> {
        let wish = SandboxWish {
            template: "base".to_owned(),
            vcpus: None,
            memory: None,
            timeout: Seconds(60),
            network: Network::Off,
            metadata: Some(Personal::new(text)),
        };
        let asked = self.ask(Command::RequestSandbox { account, wish }).await?;
        let Outcome::SandboxRequested { sandbox, .. } = asked else { bail!("not admitted") };
        let (kind, at, digest) = (SubjectKind::Sandbox(account, sandbox), self.time(), Digest([0; 32]));
        let end_at = at.after(Millis(60_000));
        self.say(kind, SandboxClaimed { host: self.worker.0 }).await?;
        let from = StartedFrom::Boot;
        self.say(kind, SandboxStarted { started_at: at, end_at, from, root: digest, kernel: digest }).await?;
        self.set_time(end_at);
        let meter = Meter { wall: Millis(60_000), ..Meter::default() };
        let usage = SubjectKind::Usage(Slot::of(end_at), account, sandbox);
        self.say(usage, UsageMetered { period: 1, observed_at: end_at, meter }).await?;
        let reason = StopReason::TimedOut;
        self.say(kind, SandboxStopped { reason, stopped_at: end_at, meter, teardown: Millis(1) }).await?;
        Ok(sandbox)
    }

    /// What these sealed texts of requests say to whoever holds every key that there is.
    pub async fn open_texts(&mut self, account: AccountId, backup: &[Stored]) -> Result<Vec<Option<String>>> {
        let mut fields = Vec::new();
        for stored in backup {
            for event in codec::decode(&stored.record)?.events {
                if let Event::SandboxRequested(requested) = event {
                    let sealed = requested.metadata.context("it has free text")?;
                    let (subject, field) = (stored.subject.clone(), METADATA_FIELD.to_owned());
                    fields.push(omnirun_commands_api::command::SealedField { subject, field, sealed });
                }
            }
        }
        match self.ask(Command::OpenFields { account, fields }).await? {
            Outcome::FieldsOpened(texts) => {
                Ok(texts.into_iter().map(|text| text.map(Personal::into_revealed)).collect())
            }
            other => bail!("{other:?}"),
        }
    }
}
