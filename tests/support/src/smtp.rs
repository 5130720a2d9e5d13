//! A real SMTP server as a process: aiosmtpd in a virtual environment of `target/`, which keeps mail in memory and prints each as a line.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long a mail may take.
const MAIL_PATIENCE: Duration = Duration::from_secs(20);

/// The running server. Dropping it ends it.
pub struct SmtpSink {
    lines: Lines<BufReader<ChildStdout>>,
    /// Where it listens, on loopback.
    pub port: u16,
    // Ends the process when dropped.
    _child: Child,
}

impl SmtpSink {
    /// Starts a server on a free port.
    pub async fn start() -> Result<Self> {
        let script = crate::root().join("scripts/smtp-sink");
        let mut child = Command::new(&script)
            // The server ends when this pipe is closed, also when a test is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", script.display()))?;
        let mut lines = BufReader::new(child.stdout.take().expect("it was asked for a pipe")).lines();
        let ready = lines.next_line().await?.context("the SMTP sink ended before it was ready")?;
        let ready: Value = serde_json::from_str(&ready).context("the SMTP sink's first line is not JSON")?;
        let port = ready["port"].as_u64().context("the SMTP sink names no port")?.try_into()?;
        Ok(Self { lines, port, _child: child })
    }

    /// The text of the next mail to `address`; others are passed over.
    pub async fn mail_to(&mut self, address: &str) -> Result<String> {
        let wait = async {
            while let Some(line) = self.lines.next_line().await? {
                let mail: Value = serde_json::from_str(&line).context("the SMTP sink wrote no JSON")?;
                if mail["to"].as_array().is_some_and(|to| to.iter().any(|to| to == address)) {
                    return Ok(mail["data"].as_str().unwrap_or_default().to_owned());
                }
            }
            bail!("the SMTP sink ended")
        };
        tokio::time::timeout(MAIL_PATIENCE, wait).await.context("no mail came")?
    }

    /// The one-time code in the next mail to `address`: its one line of digits in groups of three.
    pub async fn code_to(&mut self, address: &str) -> Result<String> {
        let mail = self.mail_to(address).await?;
        code_in(&mail).context("the mail holds no code")
    }
}

/// The one-time code in a mail's text.
pub fn code_in(mail: &str) -> Option<String> {
    let is_code = |line: &&str| {
        line.len() >= 7
            && line.split(' ').all(|group| group.len() == 3 && group.bytes().all(|b| b.is_ascii_digit()))
    };
    let line = mail.lines().map(str::trim).find(is_code)?;
    Some(line.replace(' ', ""))
}
