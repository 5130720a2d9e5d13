//! `nats.conf` as it is in the repository: what each role can do, and that it can do no more.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use futures_util::StreamExt as _;
use nkeys::KeyPair;
use omnirun_events::log::{ConsumerName, Tail, read_to_end};
use omnirun_events::*;
use omnirun_jetstream::connect::connect;
use omnirun_jetstream::{Identity, JetStreamLog, Options, Replicas, apply_streams};
use omnirun_test_support::NatsServer;

const ROLES: [&str; 6] = ["commands", "gateway", "worker", "projector", "mailer", "ops"];

/// A wait that is a failure when it is over.
const LIMIT: Duration = Duration::from_secs(30);

/// A server with the repository's configuration, and everybody's key.
struct Installation {
    server: NatsServer,
    keys: HashMap<&'static str, KeyPair>,
}

impl Installation {
    async fn start() -> Self {
        let keys: HashMap<_, _> = ROLES.into_iter().map(|role| (role, KeyPair::new_user())).collect();
        let mut variables: Vec<_> = keys
            .iter()
            .map(|(role, key)| (format!("OMNIRUN_NKEY_{}", role.to_uppercase()), key.public_key()))
            .collect();
        variables.push(("OMNIRUN_NATS_NAME".to_owned(), "test".to_owned()));
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nats.conf");
        let installation = Self { server: NatsServer::start_file(&config, variables), keys };
        let ops = connect(&installation.options("ops")).await.expect("ops may connect");
        apply_streams(&ops, Replicas(1)).await.expect("ops may create streams");
        installation
    }

    fn options(&self, role: &'static str) -> Options {
        let mut options = Options::new(self.server.url());
        options.identity = Identity::Nkey(self.keys[role].seed().expect("a new key has a seed"));
        options.inbox_prefix = format!("_INBOX.{role}");
        // What is refused times out.
        (options.answer_within, options.settle_within) = (Millis(300), Millis(600));
        options
    }

    async fn log(&self, role: &'static str, logs: &[Log]) -> JetStreamLog {
        let mut options = self.options(role);
        options.logs = logs.to_vec();
        JetStreamLog::connect(&options).await.expect("the role may look at its logs")
    }
}

fn account() -> AccountId {
    AccountId::from_bytes([1; 16])
}

fn batch(kind: SubjectKind) -> Batch {
    let commit = CommitId::from_bytes([9; 16]);
    Batch::one(Entry { subject: kind.into(), expected: Sequence::NONE, commit, record: "record".into() })
}

fn sandbox(n: u8) -> SubjectKind {
    SubjectKind::Sandbox(account(), SandboxId::from_bytes([n; 16]))
}

fn usage() -> SubjectKind {
    SubjectKind::Usage(
        Slot::all().next().expect("there are fourteen"),
        account(),
        SandboxId::from_bytes([1; 16]),
    )
}

#[tokio::test]
async fn commands_writes_every_log_but_meters_and_erases() {
    let installation = Installation::start().await;
    let mut logs: Vec<_> = Log::kept().collect();
    logs.push(Log::Auth);
    let log = installation.log("commands", &logs).await;
    let challenge = ChallengeId::from_bytes([1; 16]);
    let kinds = [
        SubjectKind::Account(account()),
        SubjectKind::AccountKey(account()),
        SubjectKind::ChallengeUsed(challenge),
    ];
    for kind in kinds {
        log.append_all(batch(kind)).await.expect("commands may write this");
        let subject = Subject::from(kind);
        assert!(log.last(&subject).await.expect("commands may read it").is_some());
        assert_eq!(log.purge_all(kind.log(), Filter::exactly(&subject)).await.expect("and erase it"), 1);
    }
    log.append_all(batch(usage())).await.expect_err("only workers meter");
}

#[tokio::test]
async fn a_gateway_reads_events_and_writes_nothing() {
    let installation = Installation::start().await;
    let commands = installation.log("commands", &[Log::Events]).await;
    let gateway = installation.log("gateway", &[Log::Events]).await;
    for n in 0..40 {
        commands.append_all(batch(sandbox(n))).await.expect("commands may write");
    }
    let seen = read_to_end(&gateway, Log::Events, Filter::all(), Sequence::NONE)
        .await
        .expect("a gateway may follow");
    assert_eq!(seen.len(), 40);
    gateway.append_all(batch(sandbox(99))).await.expect_err("a gateway may not write");
    gateway.purge_all(Log::Events, Filter::all()).await.expect_err("nor erase");
    assert!(gateway.last(&SubjectKind::AccountKey(account()).into()).await.is_err(), "nor read keys");
    assert_eq!(commands.head(Log::Events).await.expect("up"), Sequence(40));
    apply_streams(&gateway.client(), Replicas(3)).await.expect_err("nor change a stream");
}

#[tokio::test]
async fn a_worker_takes_requests_and_writes_lives_and_meters_only() {
    let installation = Installation::start().await;
    let commands = installation.log("commands", &[Log::Events]).await;
    let worker = installation.log("worker", &[Log::Events, usage().log()]).await;
    commands.append_all(batch(SubjectKind::Admission(account()))).await.expect("commands may write");
    let group = worker.consume(Log::Events, Filter::admissions(), ConsumerName("workers")).await;
    let delivery = group.expect("a worker may join its group").next().await.expect("and take from it");
    delivery.receipt.acknowledge().await.expect("and answer");
    for kind in [sandbox(1), usage()] {
        worker.append_all(batch(kind)).await.expect("a worker may write this");
        assert!(worker.last(&kind.into()).await.expect("and read it").is_some());
    }
    let seen =
        read_to_end(&worker, Log::Events, Filter::all(), Sequence::NONE).await.expect("a worker may follow");
    assert_eq!(seen.len(), 2);
    let other = AccountId::from_bytes([2; 16]);
    for kind in [SubjectKind::Account(account()), SubjectKind::Admission(other), SubjectKind::KeyRing] {
        worker.append_all(batch(kind)).await.expect_err("a worker may not write this");
    }
    assert!(
        worker.consume(Log::Events, Filter::all(), ConsumerName("others")).await.is_err(),
        "nor join another group"
    );
    worker.purge_all(usage().log(), Filter::all()).await.expect_err("nor erase meters");
}

/// Many more than are asked for one by one where a log may be followed.
#[tokio::test]
async fn a_worker_reads_a_meter_to_its_end_though_it_may_not_follow_meters() {
    let installation = Installation::start().await;
    let worker = installation.log("worker", &[Log::Events, usage().log()]).await;
    for n in 0..40 {
        let (subject, commit) = (usage().into(), CommitId::from_bytes([n; 16]));
        let entry = Entry { subject, expected: Sequence(n.into()), commit, record: "record".into() };
        worker.append_all(Batch::one(entry)).await.expect("a worker may meter");
    }
    let meter = Filter::exactly(&usage().into());
    let seen = read_to_end(&worker, usage().log(), meter, Sequence::NONE).await.expect("and read it");
    assert_eq!(seen.len(), 40);
    let all = read_to_end(&worker, usage().log(), Filter::all(), Sequence::NONE).await;
    assert!(all.is_err(), "nobody has granted it to follow all meters");
}

#[tokio::test]
async fn a_projector_follows_meters_and_writes_and_erases_nothing() {
    let installation = Installation::start().await;
    let worker = installation.log("worker", &[usage().log()]).await;
    let logs: Vec<_> = Log::kept().filter(|log| *log != Log::Keys).collect();
    let projector = installation.log("projector", &logs).await;
    worker.append_all(batch(usage())).await.expect("a worker may meter");
    let mut meters =
        projector.read(usage().log(), Filter::all(), Sequence::NONE).await.expect("lazily opened");
    assert_eq!(meters.next(10, Tail::Wait).await.expect("a projector may follow meters").records.len(), 1);
    projector.purge_all(usage().log(), Filter::all()).await.expect_err("it may not erase them");
    for kind in [SubjectKind::Erasure, SubjectKind::Billing(account()), sandbox(1)] {
        projector.append_all(batch(kind)).await.expect_err("nor write this");
    }
    assert!(projector.last(&SubjectKind::AccountKey(account()).into()).await.is_err(), "nor read keys");
    let commands = installation.log("commands", &[usage().log()]).await;
    assert_eq!(commands.purge_all(usage().log(), Filter::all()).await.expect("commands may"), 1);
}

#[tokio::test]
async fn a_mailer_answers_and_asks_nobody() {
    let talk = tokio::time::timeout(LIMIT, ask_and_answer());
    assert_eq!(
        talk.await.expect("it takes milliseconds"),
        "gateway",
        "the mailer's came before, and was refused"
    );
}

/// Who is the first to be heard on a subject of the commands, after the mailer and then the gateway have sent to it.
///
/// To flush a connection only empties our own buffer; but what it sends is handled in order. So the answer to a later message is
/// what says that the server has handled an earlier one.
async fn ask_and_answer() -> bytes::Bytes {
    const ASKED: &str = "cmd.account.open_fields";
    let installation = Installation::start().await;
    let connected = async |role| connect(&installation.options(role)).await.expect("the role may connect");
    let (commands, gateway, mailer) =
        (connected("commands").await, connected("gateway").await, connected("mailer").await);
    let mut asked = commands.subscribe("cmd.>").await.expect("commands may listen");
    let mut to_send = mailer.subscribe("mail.send").await.expect("a mailer may listen");
    // Whoever is asked for a mail knows that the commands listen: they did so before they asked.
    let answer = async {
        let mail = to_send.next().await.expect("it is asked");
        mailer.publish(ASKED, "mailer".into()).await.expect("what is refused is dropped");
        mailer.publish(mail.reply.expect("a request"), "sent".into()).await.expect("it may answer");
    };
    let (sent, ()) = tokio::join!(send_mail(&commands), answer);
    assert_eq!(sent.payload, "sent");
    gateway.publish(ASKED, "gateway".into()).await.expect("a gateway may ask");
    asked.next().await.expect("one arrives").payload
}

/// Asks until a mailer listens.
async fn send_mail(commands: &async_nats::Client) -> async_nats::Message {
    loop {
        match commands.request("mail.send", "a mail".into()).await {
            Ok(answer) => return answer,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {}
            Err(error) => panic!("a mailer is not asked: {error}"),
        }
    }
}

/// Whoever may follow a stream chooses the subject that the server delivers its records to, under nobody's permissions.
async fn deliver(worker: &JetStreamLog, to: &str) {
    let config = async_nats::jetstream::consumer::push::Config {
        deliver_subject: to.to_owned(),
        filter_subject: Subject::from(sandbox(7)).as_str().to_owned(),
        ack_policy: async_nats::jetstream::consumer::AckPolicy::None,
        ..Default::default()
    };
    let stream = async_nats::jetstream::new(worker.client()).get_stream_no_info("EVENTS").await;
    stream.expect("it is not asked for").create_consumer(config).await.expect("as any that follows EVENTS");
}

#[tokio::test]
async fn what_a_worker_has_the_server_deliver_is_no_record_elsewhere_and_no_request() {
    let installation = Installation::start().await;
    let commands = installation.log("commands", &[Log::Events, Log::Keys, Log::Auth, usage().log()]).await;
    let worker = installation.log("worker", &[Log::Events]).await;
    worker.append_all(batch(sandbox(7))).await.expect("a worker may write this");
    let challenge = ChallengeId::from_bytes([1; 16]);
    let elsewhere = [SubjectKind::AccountKey(account()), SubjectKind::ChallengeUsed(challenge), usage()];
    for kind in elsewhere {
        deliver(&worker, Subject::from(kind).as_str()).await;
    }
    let client = commands.client();
    let mut requests = client.subscribe("cmd.token.create").await.expect("commands may listen there");
    client.flush().await.expect("up");
    deliver(&worker, "cmd.token.create").await;
    let delivered = tokio::time::timeout(LIMIT, requests.next()).await.expect("in time").expect("up");
    let reply = delivered.reply.expect("where it could be acknowledged");
    assert!(reply.starts_with("$JS.ACK."), "{reply}: nobody can tell it from a request");
    for kind in elsewhere {
        assert_eq!(commands.head(kind.log()).await.expect("up"), Sequence::NONE, "{kind:?}");
    }
}
