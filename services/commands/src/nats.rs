//! The service on the bus: a NATS micro service, one endpoint per command, MessagePack in and out.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt as _};
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use omnirun_commands_api::nats::{Answer, is_request};
use omnirun_commands_api::{Code, Command, Envelope, Rejection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::{Failure, busy, chain};
use crate::service::CommandService;

/// The micro service's name, as `nats micro ls` shows it.
pub const SERVICE_NAME: &str = "omnirun-commands";

/// Queue group: each command goes to one of the running services.
const QUEUE_GROUP: &str = "omnirun-commands";

/// Commands handled at once by one process; more are answered with Busy.
const AT_ONCE_MAX: usize = 512;

/// Why the service cannot answer on the bus.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {what} on the bus")]
pub struct ServeError {
    what: String,
    #[source]
    source: async_nats::Error,
}

/// How long commands that are being handled may take to end once the service is asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Answers commands from the bus until the connection is closed for good or the future is dropped.
pub async fn serve_nats(client: Client, service: Arc<CommandService>) -> Result<(), ServeError> {
    serve_nats_until(client, service, std::future::pending()).await
}

/// As [`serve_nats`], until `stop` is done: then takes no more commands, and lets those that are being handled be answered, for ten
/// seconds at most. One that it had received and not begun times out at its sender, who asks again.
pub async fn serve_nats_until(
    client: Client,
    service: Arc<CommandService>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // Dropping the service ends its endpoints.
    let (_micro, mut requests) = listen(&client).await?;
    let room = Arc::new(Semaphore::new(AT_ONCE_MAX));
    tokio::pin!(stop);
    loop {
        let request = tokio::select! {
            () = &mut stop => break,
            request = requests.next() => request,
        };
        let Some(request) = request else { break };
        if !is_request(&request.message) {
            tracing::error!(subject = %request.message.subject, "something was delivered as a command that nobody asked for");
            continue;
        }
        let room = room.clone().try_acquire_owned();
        tokio::spawn(respond(service.clone(), request, room.ok()));
    }
    drop(requests);
    // The room is whole again when nobody is in it.
    let all = room.acquire_many(AT_ONCE_MAX as u32);
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("some commands were not answered before the service ended");
    }
    Ok(())
}

/// The service, and the endpoints of all commands as one stream.
async fn listen(client: &Client) -> Result<(Service, SelectAll<Endpoint>), ServeError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| ServeError { what, source }
    };
    let builder = client.service_builder().description("decides commands and writes the event log");
    let builder = builder.queue_group(QUEUE_GROUP);
    let micro = builder.start(SERVICE_NAME, env!("CARGO_PKG_VERSION")).await;
    let micro = micro.map_err(failed(SERVICE_NAME))?;
    let mut requests = SelectAll::new();
    for subject in Command::SUBJECTS {
        // Endpoint names have no dots.
        let endpoint = micro.endpoint_builder().name(subject.replace('.', "-")).add(subject).await;
        requests.push(endpoint.map_err(failed(subject))?);
    }
    Ok((micro, requests))
}

/// Handles one request; without room it is refused.
async fn respond(service: Arc<CommandService>, request: Request, room: Option<OwnedSemaphorePermit>) {
    let (subject, body) = (request.message.subject.clone(), request.message.payload.clone());
    let answer = match room {
        Some(_) => answer(&service, &subject, &body).await,
        None => refuse(busy("Too many commands at once; nothing was done. Try again.")),
    };
    let Some(answer) = answer else { return };
    let body = rmp_serde::to_vec_named(&answer).expect("replies are ids, numbers and texts");
    if let Err(error) = request.respond(Ok(body.into())).await {
        tracing::warn!(reason = chain(&error), "a reply could not be sent");
    }
}

/// The answer to one request; none when it is not known what became of it, so that the asker's own time-out says so.
async fn answer(service: &CommandService, subject: &str, body: &[u8]) -> Option<Answer> {
    let malformed = || refuse(Rejection::new(Code::Invalid, "This is no command of this version.").into());
    let Ok(envelope) = rmp_serde::from_slice::<Envelope>(body) else { return malformed() };
    // Who may publish what is decided by subject, so the subject counts.
    if envelope.command.subject() != subject {
        return malformed();
    }
    match service.handle(envelope).await {
        Ok(reply) => Some(Ok(reply)),
        Err(failure) => refuse(failure),
    }
}

fn refuse(failure: Failure) -> Option<Answer> {
    match failure {
        Failure::Rejected(rejection) => Some(Err(rejection)),
        Failure::Unknown => None,
    }
}
