//! The mailer over a real NATS server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use omnirun_commands_api::command::Personal;
use omnirun_commands_api::mail::{Content, Mail, MailError, OneTimeCode, SendMail as _};
use omnirun_commands_api::mail_nats::NatsMail;
use omnirun_events::unit::{Millis, Timestamp};
use omnirun_mailer::{MemoryMailbox, serve_nats};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_mail_goes_over_the_bus_and_without_a_mailer_the_sender_is_told() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/nats-server");
    let installed = tokio::process::Command::new(script).output().await.expect("the script is there");
    let mut server =
        tokio::process::Command::new(String::from_utf8(installed.stdout).expect("a path").trim())
            .args(["--addr", "127.0.0.1", "--port", "-1"])
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it was installed");
    let mut log = BufReader::new(server.stderr.take().expect("piped")).lines();
    let listening = async {
        loop {
            let line = log.next_line().await.expect("readable").expect("it runs");
            if let Some((_, address)) = line.split_once("Listening for client connections on ") {
                return address.trim().to_owned();
            }
        }
    };
    let address = tokio::time::timeout(PATIENCE, listening).await.expect("it starts in time");
    let connection = async_nats::connect(format!("nats://{address}")).await.expect("it listens");
    let client = NatsMail::new(connection.clone());
    let content = Content::SignInCode { code: OneTimeCode::new("012345"), valid_for: Millis(600_000) };
    let mail = Mail { to: Personal::new("a@example.org"), content };
    assert_eq!(client.send_mail(mail.clone()).await, Err(MailError::NoResponders));
    let mailbox = Arc::new(MemoryMailbox::new(10, Arc::new(|| Timestamp(1)), |_| {}));
    let serving = tokio::spawn(serve_nats(connection, mailbox.clone()));
    let sent = async {
        while client.send_mail(mail.clone()).await == Err(MailError::NoResponders) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, sent).await.expect("it subscribes in time");
    assert_eq!(mailbox.recent()[0].code.clone().expect("a code").reveal(), "012345");
    serving.abort();
}
