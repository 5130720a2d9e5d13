//! A whole OmniRun for one test: a data directory, an SMTP server, the program, and people who sign in.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Client;
use crate::smtp::SmtpSink;
use crate::up::{Up, log_path};

/// Everything one test needs. Dropping it kills the program and removes the directory.
pub struct World {
    /// The running program.
    pub up: Up,
    /// Where its mail goes.
    pub smtp: SmtpSink,
    directory: TempDir,
}

impl World {
    /// Starts everything; `arguments` go to `omnirun up`.
    pub async fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, arguments).await
    }

    /// Starts everything in a directory that the test has prepared; the data is in `data` below it.
    pub async fn start_in(directory: TempDir, arguments: &[&str]) -> Result<Self> {
        let smtp = SmtpSink::start().await?;
        let relay = format!("smtp://127.0.0.1:{}", smtp.port);
        let arguments = [&["--smtp", &relay], arguments].concat();
        let up = Up::start(&directory.path().join("data"), &arguments).await?;
        Ok(Self { up, smtp, directory })
    }

    /// The directory with the data, its log lines beside it, and room for the test's own files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.up.data.clone()
    }

    /// Signs somebody in with a mailed code; answers a client with their session.
    pub async fn sign_in(&mut self, email: &str) -> Result<Client> {
        let client = self.up.client();
        let asked = client.post("/auth/magic-link/request", json!({ "email": email })).await?.expect(200)?;
        let code = self.smtp.code_to(email).await?;
        let body = json!({ "email": email, "code": code, "challengeId": asked["challengeId"] });
        let token = client.post("/auth/otp/verify", body).await?.expect(200)?;
        Ok(client.with_token(token["token"].as_str().context("no token in the answer")?))
    }

    /// Signs somebody in and makes them an API token; answers a client with it and what the token's creation answered.
    pub async fn user(&mut self, email: &str) -> Result<(Client, Value)> {
        let session = self.sign_in(email).await?;
        let made = session.post("/tokens", json!({ "name": "test" })).await?.expect(201)?;
        let token = made["token"].as_str().context("no token in the answer")?;
        Ok((session.with_token(token), made))
    }

    /// Kills the program as `kill -9` does and starts it again over the same data.
    pub async fn restart(self) -> Result<Self> {
        let Self { up, smtp, directory } = self;
        Ok(Self { up: up.restart().await?, smtp, directory })
    }

    /// Everything that the program has written to its log.
    pub fn log_lines(&self) -> String {
        std::fs::read_to_string(log_path(&self.up.data)).unwrap_or_default()
    }

    /// The program, its mail and its directory apart, for tests that kill and restart it.
    pub fn into_parts(self) -> (Up, SmtpSink, TempDir) {
        (self.up, self.smtp, self.directory)
    }

    /// Stops the program and keeps what is on disk, for a test that looks at it.
    pub async fn stop(self) -> Result<TempDir> {
        self.up.stop().await?;
        Ok(self.directory)
    }

    /// Stops the program and removes everything.
    pub async fn close(self) -> Result<()> {
        self.stop().await.map(drop)
    }
}

/// Makes a sandbox and answers its id.
pub async fn sandbox(user: &Client, wish: Value) -> Result<String> {
    let made = user.post("/sandboxes", wish).await?.expect(201)?;
    Ok(made["sandboxID"].as_str().context("no id in the answer")?.to_owned())
}

/// Runs a command in a sandbox; answers its standard output if it succeeded.
pub async fn run(user: &Client, sandbox: &str, command: &str) -> Result<String> {
    let ran = user
        .post(&format!("/sandboxes/{sandbox}/commands"), json!({ "command": command }))
        .await?
        .expect(200)?;
    ensure!(ran["exit_code"] == 0, "the command ended with {}: {}", ran["exit_code"], ran["stderr"]);
    Ok(ran["stdout"].as_str().unwrap_or_default().trim().to_owned())
}

/// Destroys a sandbox and waits until it is gone.
pub async fn destroy(user: &Client, sandbox: &str) -> Result<()> {
    let path = format!("/sandboxes/{sandbox}");
    let answer = user.delete(&path).await?;
    ensure!(answer.status == 204, "expected 204, got {}: {}", answer.status, answer.text());
    crate::demo::wait_for(std::time::Duration::from_secs(30), async || {
        Ok((user.get(&path).await?.json()["state"] == "stopped").then_some(()))
    })
    .await
    .context("the sandbox did not stop")
}

/// Files below `directory` that hold `needle`; unreadable ones are an error, files that vanish while it looks are not.
pub fn files_holding(directory: &Path, needle: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in
            std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?
        {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                match std::fs::read(entry.path()) {
                    Ok(bytes) if holds(&bytes, needle) => found.push(entry.path()),
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => {
                        return Err(error).with_context(|| format!("cannot read {}", entry.path().display()));
                    }
                }
            }
        }
    }
    Ok(found)
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
