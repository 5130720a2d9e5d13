//! The mailer against a real mail server (`scripts/smtp-sink`), as a process on a loopback port.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use omnirun_commands_api::command::Personal;
use omnirun_commands_api::mail::{Content, Mail, MailError, OneTimeCode, SendMail as _};
use omnirun_events::unit::Millis;
use omnirun_mailer::smtp::PATIENCE as PATIENCE_OF_MAILER;
use omnirun_mailer::{Credentials, Encryption, SmtpMailer, SmtpSettings};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Long enough to install the server's packages the first time.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Ready {
    port: u16,
}

#[derive(Deserialize)]
struct Received {
    from: String,
    to: Vec<String>,
    data: String,
    tls: bool,
    user: Option<String>,
}

struct Sink {
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    // Held so that the server ends with the test: it ends when its standard input closes.
    _process: Child,
}

impl Sink {
    async fn start(options: &[&str]) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/smtp-sink");
        let mut process = Command::new(script)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the script is there");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let ready: Ready = next(&mut lines).await;
        Self { port: ready.port, lines, _process: process }
    }

    async fn mail(&mut self) -> Received {
        next(&mut self.lines).await
    }
}

async fn next<T: for<'a> Deserialize<'a>>(lines: &mut Lines<BufReader<ChildStdout>>) -> T {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it answers in time");
    serde_json::from_str(&line.expect("readable").expect("it runs")).expect("one JSON object a line")
}

fn settings(port: u16, encryption: Encryption) -> SmtpSettings {
    let host = if encryption == Encryption::None { "127.0.0.1" } else { "localhost" }.to_owned();
    let from = "OmniRun <codes@example.org>".to_owned();
    SmtpSettings {
        host,
        port,
        encryption,
        credentials: None,
        from,
        authority: None,
        patience: PATIENCE_OF_MAILER,
    }
}

fn mail(to: &str) -> Mail {
    let content = Content::SignInCode { code: OneTimeCode::new("012345"), valid_for: Millis(600_000) };
    Mail { to: Personal::new(to), content }
}

#[tokio::test]
async fn a_code_arrives_as_plain_text_that_says_when_it_ends() {
    let mut sink = Sink::start(&[]).await;
    let mailer = SmtpMailer::new(settings(sink.port, Encryption::None)).expect("usable");
    mailer.send_mail(mail("someone@example.org")).await.expect("taken");
    let Received { from, to, data, tls, user } = sink.mail().await;
    assert_eq!(
        (from.as_str(), to.as_slice()),
        ("codes@example.org", ["someone@example.org".to_owned()].as_slice())
    );
    assert!(!tls && user.is_none());
    let (head, body) = data.split_once("\r\n\r\n").expect("headers, an empty line, a body");
    for line in [
        "Auto-Submitted: auto-generated",
        "Content-Type: text/plain; charset=utf-8",
        "To: someone@example.org",
    ] {
        assert!(head.lines().any(|found| found == line), "{line} is missing");
    }
    assert!(head.contains("\r\nDate: ") && head.contains("\r\nMessage-ID: <"));
    // The code alone, grouped or not: a date, a port or a message id may well hold three of its digits.
    assert!(!head.contains("012345") && !head.contains("012 345"), "the code is in the head");
    assert!(body.contains("012 345") && body.contains("10 minutes"));
    assert!(!data.contains("http"));
}

#[tokio::test]
async fn what_the_server_refuses_for_good_is_permanent_and_what_it_refuses_now_is_not() {
    let sink = Sink::start(&[]).await;
    let mailer = SmtpMailer::new(settings(sink.port, Encryption::None)).expect("usable");
    assert_eq!(mailer.send_mail(mail("refused@example.org")).await, Err(MailError::Permanent));
    assert_eq!(mailer.send_mail(mail("later@example.org")).await, Err(MailError::Temporary));
    assert_eq!(mailer.send_mail(mail("no address")).await, Err(MailError::Permanent));
}

#[tokio::test]
async fn a_server_that_is_not_there_may_be_there_later() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = nobody.local_addr().expect("bound").port();
    drop(nobody);
    let mailer = SmtpMailer::new(settings(port, Encryption::None)).expect("usable");
    assert_eq!(mailer.send_mail(mail("someone@example.org")).await, Err(MailError::Temporary));
}

#[tokio::test]
async fn a_server_with_a_password_takes_the_right_one_and_a_wrong_one_is_not_the_mails_fault() {
    let mut sink = Sink::start(&["--user", "omnirun", "--password", "right"]).await;
    let with = |password: &str| {
        let credentials = Credentials { user: "omnirun".to_owned(), password: password.to_owned().into() };
        let settings =
            SmtpSettings { credentials: Some(credentials), ..settings(sink.port, Encryption::None) };
        SmtpMailer::new(settings).expect("usable")
    };
    let (right, wrong) = (with("right"), with("wrong"));
    assert_eq!(wrong.send_mail(mail("someone@example.org")).await, Err(MailError::Temporary));
    right.send_mail(mail("someone@example.org")).await.expect("taken");
    assert_eq!(sink.mail().await.user.as_deref(), Some("omnirun"));
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

async fn over_tls(encryption: Encryption, option: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let authority = pem("CERTIFICATE", made.cert.der());
    std::fs::write(&cert, &authority).expect("room");
    std::fs::write(&key, pem("PRIVATE KEY", &made.signing_key.serialize_der())).expect("room");
    let (cert, key) = (cert.to_str().expect("text"), key.to_str().expect("text"));
    let mut sink = Sink::start(&["--tls", option, "--cert", cert, "--key", key]).await;
    let trusting =
        SmtpSettings { authority: Some(authority.into_bytes()), ..settings(sink.port, encryption) };
    let doubting = SmtpMailer::new(settings(sink.port, encryption)).expect("usable");
    assert_eq!(doubting.send_mail(mail("someone@example.org")).await, Err(MailError::Temporary));
    let trusting = SmtpMailer::new(trusting).expect("usable");
    trusting.send_mail(mail("someone@example.org")).await.expect("taken");
    assert!(sink.mail().await.tls);
}

#[tokio::test]
async fn starttls_goes_to_a_trusted_server_only() {
    over_tls(Encryption::StartTls, "starttls").await;
}

#[tokio::test]
async fn implicit_tls_goes_to_a_trusted_server_only() {
    over_tls(Encryption::Implicit, "implicit").await;
}

#[tokio::test]
async fn a_server_without_starttls_gets_nothing() {
    let sink = Sink::start(&[]).await;
    let mailer = SmtpMailer::new(settings(sink.port, Encryption::StartTls)).expect("usable");
    assert_eq!(mailer.send_mail(mail("someone@example.org")).await, Err(MailError::Temporary));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let patience = Duration::from_millis(50);
    let mailer =
        SmtpMailer::new(SmtpSettings { patience, ..settings(port, Encryption::None) }).expect("usable");
    assert_eq!(mailer.send_mail(mail("someone@example.org")).await, Err(MailError::Temporary));
}
