//! The mailer on the bus: a NATS micro service with the one endpoint `mail.send`.

use std::sync::Arc;

use async_nats::Client;
use async_nats::service::ServiceExt as _;
use futures_util::StreamExt as _;
use omnirun_commands_api::mail::{MAIL_SUBJECT, Mail, MailError, SendMail};
use tokio::sync::Semaphore;

/// The micro service's name, as `nats micro ls` shows it; also its queue group.
pub const SERVICE_NAME: &str = "omnirun-mailer";

/// Mails that are handed over at once by one process; more are told to come later.
const AT_ONCE_MAX: usize = 64;

/// The mailer cannot answer on the bus.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve mail on the bus")]
pub struct ServeError(#[source] async_nats::Error);

/// Sends the mails that come over the bus with `mail`, until the connection is closed for good or the future is dropped.
pub async fn serve_nats(client: Client, mail: Arc<dyn SendMail>) -> Result<(), ServeError> {
    let builder =
        client.service_builder().description("hands mails to the mail server").queue_group(SERVICE_NAME);
    let micro = builder.start(SERVICE_NAME, env!("CARGO_PKG_VERSION")).await.map_err(ServeError)?;
    let endpoint = micro.endpoint_builder().name("mail-send").add(MAIL_SUBJECT).await;
    let mut requests = endpoint.map_err(ServeError)?;
    let room = Arc::new(Semaphore::new(AT_ONCE_MAX));
    while let Some(request) = requests.next().await {
        let (room, mail) = (room.clone().try_acquire_owned(), mail.clone());
        tokio::spawn(async move {
            let answer = match (room, rmp_serde::from_slice::<Mail>(&request.message.payload)) {
                (_, Err(_)) => Err(MailError::Permanent),
                (Err(_), _) => Err(MailError::Temporary),
                (Ok(_room), Ok(wanted)) => mail.send_mail(wanted).await,
            };
            let body = rmp_serde::to_vec_named(&answer).expect("an answer is a word");
            if request.respond(Ok(body.into())).await.is_err() {
                tracing::warn!("an answer about a mail could not be sent");
            }
        });
    }
    Ok(())
}
