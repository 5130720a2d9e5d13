//! The same service over a real NATS server.

use std::path::PathBuf;
use std::sync::Arc;

use omnirun_commands::nats::ServeError;
use omnirun_commands::serve_nats;
use omnirun_commands_api::nats::NatsCommands;
use omnirun_commands_api::{Code, Command, Commands as _, Outcome, SendError};
use omnirun_events::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;

use crate::support::*;

struct Server {
    url: String,
    // Held so that the server ends with the test.
    _process: Child,
}

impl Server {
    async fn start() -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/nats-server");
        let installed = tokio::process::Command::new(script).output().await.expect("the script is there");
        let binary = String::from_utf8(installed.stdout).expect("a path");
        let mut process = tokio::process::Command::new(binary.trim())
            .args(["--addr", "127.0.0.1", "--port", "-1"])
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it was installed");
        let mut log = BufReader::new(process.stderr.take().expect("piped")).lines();
        let listening = async {
            while let Some(line) = log.next_line().await.expect("readable") {
                if let Some((_, address)) = line.split_once("Listening for client connections on ") {
                    return address.trim().to_owned();
                }
            }
            panic!("the server ended");
        };
        let address = tokio::time::timeout(PATIENCE, listening).await.expect("it starts in time");
        // What it says later is not read, but must not stop it either.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Self { url: format!("nats://{address}"), _process: process }
    }
}

/// Sends until somebody answers: a service that has just been started may not have subscribed yet.
async fn send(client: &NatsCommands, world: &World, command: Command) -> Outcome {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match client.send(world.envelope(command.clone())).await {
            Ok(reply) => return reply.outcome,
            Err(SendError::NoResponders) if tokio::time::Instant::now() < deadline => {
                tokio::task::yield_now().await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_person_signs_in_over_the_bus_and_refusals_come_back_as_such() {
    let server = Server::start().await;
    let world = Arc::new(World::new().await);
    let connection = async_nats::connect(&server.url).await.expect("it listens");
    let client = NatsCommands::new(connection.clone(), || START);
    let nobody = client.send(world.envelope(request_code("a@example.org"))).await;
    assert!(matches!(nobody, Err(SendError::NoResponders)), "{nobody:?}");
    let process = world.process().await;
    let serving = tokio::spawn(serve_nats(connection.clone(), process.service.clone()));
    let Outcome::CodeRequested { challenge, .. } = send(&client, &world, request_code("a@example.org")).await
    else {
        panic!("no challenge")
    };
    let code = world.mailbox.code(1).await;
    let wrong = client.send(world.envelope(verify("a@example.org", Some(challenge), &wrong(&code)))).await;
    match wrong {
        Err(SendError::Rejected(rejection)) => assert_eq!(rejection.code, Code::InvalidOrExpiredCode),
        other => panic!("{other:?}"),
    }
    let signed_in = send(&client, &world, verify("a@example.org", Some(challenge), &code)).await;
    let Outcome::SignedIn { account, .. } = signed_in else { panic!("not signed in: {signed_in:?}") };
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    assert!(matches!(send(&client, &world, request).await, Outcome::SandboxRequested { .. }));
    serving.abort();
}

/// A service that has answered a first request.
struct Served {
    world: World,
    connection: async_nats::Client,
    serving: JoinHandle<Result<(), ServeError>>,
    /// The end of AUTH after that.
    head: Sequence,
    // Held so that they end with the test.
    _process: Process,
    _server: Server,
}

impl Served {
    async fn start() -> Self {
        let (server, world) = (Server::start().await, World::new().await);
        let connection = async_nats::connect(&server.url).await.expect("it listens");
        let process = world.process().await;
        let serving = tokio::spawn(serve_nats(connection.clone(), process.service.clone()));
        let client = NatsCommands::new(connection.clone(), || START);
        send(&client, &world, request_code("a@example.org")).await;
        let head = world.log.head(Log::Auth).await.expect("memory");
        Self { world, connection, serving, head, _process: process, _server: server }
    }
}

/// As a record arrives that somebody has a stream's consumer deliver there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_command_without_an_inbox_for_its_answer_is_not_done() {
    let Served { world, connection, serving, head, .. } = &Served::start().await;
    let body: bytes::Bytes =
        rmp_serde::to_vec_named(&world.envelope(request_code("b@example.org"))).expect("encodes").into();
    let subject = "cmd.account.request_code";
    connection.publish_with_reply(subject, "$JS.ACK.EVENTS.x.1.1.1.1.0", body.clone()).await.expect("up");
    connection.publish(subject, body).await.expect("up");
    // Comes after them, on the same subject.
    let malformed = connection.request(subject, "no command".into()).await.expect("an answer");
    assert!(!malformed.payload.is_empty());
    assert_eq!(world.log.head(Log::Auth).await.expect("memory"), *head);
    assert_eq!(world.mailbox.recipients(), ["a@example.org"]);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_are_no_command_and_commands_on_anothers_subject_are_refused() {
    let Served { world, connection, serving, head, .. } = &Served::start().await;
    let foreign = rmp_serde::to_vec_named(&world.envelope(request_code("b@example.org"))).expect("encodes");
    for (subject, body) in
        [("cmd.token.create", foreign), ("cmd.account.request_code", b"\xc1 no command".to_vec())]
    {
        let reply = connection.request(subject, body.into()).await.expect("an answer");
        let answer: omnirun_commands_api::nats::Answer =
            rmp_serde::from_slice(&reply.payload).expect("an answer");
        assert_eq!(answer.expect_err("no command").code, Code::Invalid);
    }
    assert_eq!(world.log.head(Log::Auth).await.expect("memory"), *head);
    serving.abort();
}
