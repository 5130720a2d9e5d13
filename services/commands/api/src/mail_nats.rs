//! The mailer's client over NATS: MessagePack request and reply on [`MAIL_SUBJECT`].

use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use async_trait::async_trait;

use crate::mail::{MAIL_SUBJECT, Mail, MailError, SendMail};

/// How long a mailer may take to hand a mail to its server.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Sends mail through whichever mailer answers on the bus.
#[derive(Clone, Debug)]
pub struct NatsMail {
    client: Client,
}

impl NatsMail {
    /// A client on this connection.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl SendMail for NatsMail {
    async fn send_mail(&self, mail: Mail) -> Result<(), MailError> {
        let body = rmp_serde::to_vec_named(&mail).map_err(|_| MailError::Permanent)?;
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(ANSWER_WITHIN));
        let reply =
            self.client.send_request(MAIL_SUBJECT, request).await.map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => MailError::NoResponders,
                _ => MailError::Temporary,
            })?;
        rmp_serde::from_slice(&reply.payload).unwrap_or(Err(MailError::Temporary))
    }
}
