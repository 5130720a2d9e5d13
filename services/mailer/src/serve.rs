//! The mailer on the bus: a NATS micro service with the one endpoint `mail.send`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::service::{Request, ServiceExt as _};
use futures_util::StreamExt as _;
use omnirun_commands_api::mail::{MAIL_SUBJECT, Mail, MailError, SendMail};
use omnirun_commands_api::nats::is_request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The micro service's name, as `nats micro ls` shows it; also its queue group.
pub const SERVICE_NAME: &str = "omnirun-mailer";

/// Mails that are handed over at once by one process; more are told to come later.
const AT_ONCE_MAX: usize = 64;

/// The mailer cannot answer on the bus.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve mail on the bus")]
pub struct ServeError(#[source] async_nats::Error);

/// How long mails that are being handed over may take to end once the mailer is asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Sends the mails that come over the bus with `mail`, until the connection is closed for good or the future is dropped.
pub async fn serve_nats(client: Client, mail: Arc<dyn SendMail>) -> Result<(), ServeError> {
    serve_nats_until(client, mail, std::future::pending()).await
}

/// As [`serve_nats`], until `stop` is done: then takes no more mails, and lets those under way end, for ten seconds at most. The
/// sender of one that is cut off tries again.
pub async fn serve_nats_until(
    client: Client,
    mail: Arc<dyn SendMail>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let builder =
        client.service_builder().description("hands mails to the mail server").queue_group(SERVICE_NAME);
    let micro = builder.start(SERVICE_NAME, env!("CARGO_PKG_VERSION")).await.map_err(ServeError)?;
    let endpoint = micro.endpoint_builder().name("mail-send").add(MAIL_SUBJECT).await;
    let mut requests = endpoint.map_err(ServeError)?;
    let room = Arc::new(Semaphore::new(AT_ONCE_MAX));
    tokio::pin!(stop);
    loop {
        let request = tokio::select! {
            () = &mut stop => break,
            request = requests.next() => request,
        };
        let Some(request) = request else { break };
        if !is_request(&request.message) {
            tracing::error!("something was delivered as a mail that nobody asked for");
            continue;
        }
        tokio::spawn(respond(mail.clone(), request, room.clone().try_acquire_owned().ok()));
    }
    drop(requests);
    // The room is whole again when nobody is in it.
    if tokio::time::timeout(DRAIN, room.acquire_many(AT_ONCE_MAX as u32)).await.is_err() {
        tracing::warn!("some mails were cut off when the mailer ended");
    }
    Ok(())
}

/// Sends one mail; without room its sender is told to come later.
async fn respond(mail: Arc<dyn SendMail>, request: Request, room: Option<OwnedSemaphorePermit>) {
    let answer = match (&room, rmp_serde::from_slice::<Mail>(&request.message.payload)) {
        (_, Err(_)) => Err(MailError::Permanent),
        (None, Ok(_)) => Err(MailError::Temporary),
        (Some(_), Ok(wanted)) => mail.send_mail(wanted).await,
    };
    let body = rmp_serde::to_vec_named(&answer).expect("an answer is a word");
    if request.respond(Ok(body.into())).await.is_err() {
        tracing::warn!("an answer about a mail could not be sent");
    }
}
