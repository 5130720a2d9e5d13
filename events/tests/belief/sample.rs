//! Fixed keys, one sample of every event, and a small honest log.

use omnirun_events::account::*;
use omnirun_events::auth::*;
use omnirun_events::billing::*;
use omnirun_events::erasure::*;
use omnirun_events::event::WRITTEN;
use omnirun_events::host::*;
use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::*;
use omnirun_events::log::Stored;
use omnirun_events::ops::*;
use omnirun_events::sandbox::*;
use omnirun_events::sealing::{DataKey, DataKeyLabel, Sealed};
use omnirun_events::signing::Signer;
use omnirun_events::token::*;
use omnirun_events::unit::*;
use omnirun_events::usage::*;
use omnirun_events::verify::{Depth, Fault, Verdict, Verifier};
use omnirun_events::*;

pub fn account() -> AccountId {
    AccountId::from_bytes([0xa1; 16])
}

pub fn sandbox() -> SandboxId {
    SandboxId::from_bytes([0x5b; 16])
}

pub fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

pub fn sandbox_subject() -> SubjectKind {
    SubjectKind::Sandbox(account(), sandbox())
}

pub fn usage_subject() -> SubjectKind {
    SubjectKind::Usage(Slot::from_index(3).expect("there are fourteen"), account(), sandbox())
}

/// The key of a role; `n` tells apart those of one role.
pub fn signer(role: Role, n: u8) -> Signer {
    Signer::from_seed(&[role as u8 * 16 + n + 1; 32], role)
}

pub fn root() -> Signer {
    signer(Role::Root, 0)
}

pub fn enrolment(role: Role, n: u8) -> KeyEnrolled {
    let key = signer(role, n);
    let host = (role == Role::Worker).then(|| host(n));
    KeyEnrolled { key: key.id(), public: key.public(), role, host }
}

fn sealed(field: &str, subject: SubjectKind, label: DataKeyLabel) -> Sealed {
    DataKey::from_bytes([0x11; 32]).seal(label, [0x22; 24], &subject.into(), field, b"sealed text")
}

/// One event of every stored name, with every optional field present.
pub fn event(name: &str) -> Event {
    let meter = Meter {
        wall: Millis(60_000),
        vcpu: Millis(1_234),
        memory: MebibyteSeconds(15_360),
        received: Bytes(1 << 40),
        sent: Bytes(7),
    };
    match name {
        "account.opened" => AccountOpened {
            email: sealed(EMAIL_FIELD, SubjectKind::Account(account()), DataKeyLabel::Account),
            plan: "free".to_owned(),
        }
        .into(),
        "account.email_changed" => EmailChanged {
            email: sealed(EMAIL_FIELD, SubjectKind::Account(account()), DataKeyLabel::Address(2)),
        }
        .into(),
        "account.plan_changed" => {
            PlanChanged { plan: "launch".to_owned(), from: Timestamp(1_795_046_400_000) }.into()
        }
        "data_keys.destroyed" => DataKeysDestroyed { count: 3 }.into(),
        "address.claimed" => AddressClaimed {}.into(),
        "account.closing" => AccountClosing { receipt: receipt() }.into(),
        "account.quiet" => AccountQuiet {}.into(),
        "account.receipt_issued" => ReceiptIssued { mail: ReceiptMail::Sent }.into(),
        "account.closed" => AccountClosed { receipt: receipt() }.into(),
        "records.erased" => tombstone().into(),
        "erasure.finished" => ErasureFinished { receipt: receipt() }.into(),
        "ops.acted" => OpsActed {
            operator: "night shift".to_owned(),
            action: Action::EraseAccount { receipt: receipt() },
            reason: "request 17 of the privacy mailbox".to_owned(),
        }
        .into(),
        "host.caught_up" => HostCaughtUp { through: Sequence(70_000) }.into(),
        "token.created" => token_created().into(),
        "token.revoked" => TokenRevoked { reason: RevokeReason::Leaked }.into(),
        "challenge.issued" => ChallengeIssued {
            account: account(),
            epoch: 3,
            digits: 6,
            bind: Some(vec![0x33; 32]),
            expires_at: Timestamp(1_795_000_900_000),
            purpose: Purpose::ChangeEmail,
        }
        .into(),
        "challenge.attempt_spent" => AttemptSpent {}.into(),
        "challenge.used" => ChallengeUsed {}.into(),
        "sandbox.requested" => requested().into(),
        "sandbox.timeout_extended" => TimeoutExtended {
            sandbox: sandbox(),
            end_at: Timestamp(1_795_000_600_000),
            reserved: StandardMillis(600_000),
        }
        .into(),
        "sandbox.resumed" => SandboxResumed {
            sandbox: sandbox(),
            end_at: Timestamp(1_795_000_600_000),
            reserved: StandardMillis(570_000),
        }
        .into(),
        "admission.trimmed" => AdmissionTrimmed {}.into(),
        "sandbox.stop_requested" => StopRequested {}.into(),
        "sandbox.pause_requested" => PauseRequested {}.into(),
        "sandbox.paused" => SandboxPaused {
            paused_at: Timestamp(1_795_000_060_000),
            end_at: Timestamp(1_795_000_300_000),
            meter,
        }
        .into(),
        "sandbox.failed" => SandboxFailed { reason: FailReason::NoCapacity }.into(),
        "sandbox.claimed" => SandboxClaimed { host: host(0) }.into(),
        "sandbox.started" => SandboxStarted {
            started_at: Timestamp(1_795_000_000_000),
            end_at: Timestamp(1_795_000_300_000),
            from: StartedFrom::Pool,
            root: Digest([0x44; 32]),
            kernel: Digest([0x55; 32]),
        }
        .into(),
        "sandbox.stopped" => SandboxStopped {
            reason: StopReason::HostLost,
            stopped_at: Timestamp(1_795_000_300_000),
            meter,
            teardown: Millis(37),
        }
        .into(),
        "usage.metered" => {
            UsageMetered { period: 1, observed_at: Timestamp(1_795_000_060_000), meter }.into()
        }
        "billing.statement_closed" => statement().into(),
        "billing.statement_corrected" => StatementCorrected {
            start: Timestamp(1_792_368_000_000),
            correction: Correction::Credit,
            amount: MicroCents(1_389),
        }
        .into(),
        "billing.usage_noticed" => UsageNoticed {
            start: Timestamp(1_795_046_400_000),
            percent: 80,
            used: StandardMillis(72_000_000),
            included: StandardMillis(90_000_000),
        }
        .into(),
        "host.joined" => joined().into(),
        "host.left" => HostLeft {}.into(),
        "host.lost" => {
            HostLost { operator: "night shift".to_owned(), reason: "rack 7 burned".to_owned() }.into()
        }
        "key.enrolled" => enrolment(Role::Worker, 0).into(),
        "key.retired" => KeyRetired { key: signer(Role::Worker, 0).id() }.into(),
        "master_key.rotated" => MasterKeyRotated { epoch: 2, final_through: Sequence(41) }.into(),
        "data_key.wrapped" => DataKeyWrapped {
            label: DataKeyLabel::Month(202_611),
            epoch: 2,
            wrapped: sealed(
                "wrapped",
                SubjectKind::MonthKey(account(), 202_611),
                DataKeyLabel::Month(202_611),
            ),
        }
        .into(),
        other => panic!("add a sample of {other} here, then its golden file"),
    }
}

pub fn receipt() -> ReceiptId {
    ReceiptId::from_bytes([0x7e; 16])
}

fn tombstone() -> RecordsErased {
    RecordsErased {
        cause: Cause::Account { receipt: receipt() },
        log: Log::Usage(Slot::from_index(3).expect("there are fourteen")),
        positions: vec![Span(Sequence(1), 1), Span(Sequence(70_000), 300)],
        starts: vec![ChainStart(300, RecordHash([0x88; 32]))],
    }
}

fn token_created() -> TokenCreated {
    let token = TokenId::from_bytes([0x70; 16]);
    TokenCreated {
        token,
        kind: TokenKind::Cli,
        verifier: TokenVerifier([0x66; 32]),
        name: Some(sealed(NAME_FIELD, SubjectKind::Token(account(), token), DataKeyLabel::Account)),
        scopes: Scope::ALL.to_vec(),
        hint: "aB3xY9".to_owned(),
        expires_at: Some(Timestamp(1_803_000_000_000)),
    }
}

fn requested() -> SandboxRequested {
    let admission = SubjectKind::Admission(account());
    SandboxRequested {
        sandbox: sandbox(),
        template: "python-3.11".to_owned(),
        shape: Shape { vcpus: Vcpus(2), memory: Mebibytes(512) },
        timeout: Seconds(300),
        reserved: StandardMillis(300_000),
        deadline: Timestamp(1_795_000_060_000),
        network: Network::Filtered,
        metadata: Some(sealed(METADATA_FIELD, admission, DataKeyLabel::Month(202_611))),
    }
}

fn statement() -> StatementClosed {
    let shape = Shape { vcpus: Vcpus(2), memory: Mebibytes(4096) };
    let day = Day(20_776);
    StatementClosed {
        start: Timestamp(1_792_368_000_000),
        end: Timestamp(1_795_046_400_000),
        plan: "launch".to_owned(),
        price_from: Timestamp(1_767_225_600_000),
        base: MicroCents(1_900_000_000),
        included: StandardMillis(7_000),
        overage_per_second: Some(MicroCents(1_389)),
        lines: vec![
            StatementLine { day, shape: Some(shape), sandboxes: 1, standard: StandardMillis(6_000) },
            StatementLine { day, shape: None, sandboxes: 3, standard: StandardMillis(2_000) },
        ],
        standard: StandardMillis(8_000),
        overage: StandardMillis(1_000),
        amount: MicroCents(1_900_001_389),
        carried: vec![Carried { sandbox: sandbox(), wall: Millis(2_345) }],
        seen: vec![
            SeenThrough(Log::Events, Sequence(70_000)),
            SeenThrough(Log::Usage(Slot::from_index(3).expect("there are fourteen")), Sequence(9)),
        ],
    }
}

fn joined() -> HostJoined {
    HostJoined {
        address: "127.0.0.1:7443".to_owned(),
        certificate: Digest([0x77; 32]),
        sandboxes_max: 8,
        vcpus_max: Vcpus(4),
        memory_max: Mebibytes(8192),
        monitor: "qemu-tcg".to_owned(),
        templates: vec![HostTemplate { name: "base".to_owned(), root: Digest([0x44; 32]) }],
    }
}

/// One of each event that is written.
pub fn every_event() -> impl Iterator<Item = Event> {
    WRITTEN.iter().map(|(name, _)| event(name))
}

/// Records as a store would hold them, each signed by whom the test says.
#[derive(Clone)]
pub struct Written {
    pub verifier: Verifier,
    sequence: u64,
}

impl Written {
    /// Nothing but a root key.
    pub fn new() -> Self {
        let ring = KeyRing::rooted_in(&root().public()).expect("a derived key is not weak");
        Self { verifier: Verifier::new(ring), sequence: 0 }
    }

    /// A log that starts with the enrolment of one key of commands and gateway and two of workers.
    pub fn enrolled() -> Self {
        let mut log = Self::new();
        let keys = [(Role::Commands, 0), (Role::Gateway, 0), (Role::Worker, 0), (Role::Worker, 1)];
        let events = keys.into_iter().map(|(role, n)| enrolment(role, n).into()).collect();
        log.put(&root(), SubjectKind::KeyRing, events).expect("the root key enrols");
        log
    }

    /// The next record of a subject, signed but not checked.
    pub fn next(&mut self, by: &Signer, actor: Actor, subject: SubjectKind, events: Vec<Event>) -> Stored {
        let subject = Subject::from(subject);
        self.sequence += 1;
        let commit = CommitId::from_bytes([self.sequence as u8; 16]);
        let at = Timestamp(1_795_000_000_000 + self.sequence);
        let draft = Draft { commit, subject: subject.clone(), at, actor, cause: None, events };
        let signed = by.sign(&draft, &self.verifier.head(&subject)).expect("samples are small");
        Stored { sequence: Sequence(self.sequence), subject, record: signed.bytes }
    }

    pub fn check(&mut self, stored: &Stored) -> Result<Verdict, Fault> {
        self.verifier.check(stored.subject.log(), stored, Depth::Signatures)
    }

    /// The number of the last record.
    pub fn last(&self) -> Sequence {
        Sequence(self.sequence)
    }

    /// Appends a record by a key that speaks for itself, and checks it.
    pub fn put(&mut self, by: &Signer, subject: SubjectKind, events: Vec<Event>) -> Result<Verdict, Fault> {
        let host = [0, 1].into_iter().find(|n| signer(Role::Worker, *n).id() == by.id());
        let actor = host.map_or(Actor::System(Role::Commands), |n| Actor::Host(host_of(n)));
        let stored = self.next(by, actor, subject, events);
        self.check(&stored)
    }
}

fn host_of(n: u8) -> HostId {
    host(n)
}

/// An honest log that touches three logs and four subjects, as stored, and the key of its root.
pub fn honest_log() -> Vec<Stored> {
    let mut log = Written::new();
    let (commands, worker) = (signer(Role::Commands, 0), signer(Role::Worker, 0));
    let (person, machine) = (Actor::Account(account()), Actor::Host(host(0)));
    let keys = vec![enrolment(Role::Commands, 0).into(), enrolment(Role::Worker, 0).into()];
    let admission = SubjectKind::Admission(account());
    let steps: Vec<(&Signer, Actor, SubjectKind, Vec<Event>)> = vec![
        (&commands, person, SubjectKind::Account(account()), vec![event("account.opened")]),
        (&commands, person, SubjectKind::AccountKey(account()), vec![event("data_key.wrapped")]),
        (&commands, person, admission, vec![event("sandbox.requested")]),
        (&worker, machine, sandbox_subject(), vec![event("sandbox.claimed")]),
        (&worker, machine, sandbox_subject(), vec![event("sandbox.started")]),
        (&commands, person, sandbox_subject(), vec![event("sandbox.stop_requested")]),
        (&worker, machine, usage_subject(), vec![event("usage.metered")]),
        (&worker, machine, sandbox_subject(), vec![event("sandbox.stopped")]),
    ];
    let first = log.next(&root(), Actor::Operator, SubjectKind::KeyRing, keys);
    let mut records = vec![first];
    log.check(&records[0]).expect("the root key enrols");
    for (by, actor, subject, events) in steps {
        let stored = log.next(by, actor, subject, events);
        assert!(matches!(log.check(&stored), Ok(Verdict::Believed(_))), "{}", stored.subject);
        records.push(stored);
    }
    records
}
