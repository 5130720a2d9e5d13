//! The main job by HTTP, as a user does it: sign in with a mailed code, make a token, get a sandbox, run code, destroy it, see the bill.
//!
//! Each step remembers what it got, so that a run that was interrupted goes on where it was: the kill test starts the server again
//! at every record and calls [`Demo::run`] until it ends well.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::http::Client;
use crate::smtp::SmtpSink;

/// Who signs in.
pub const EMAIL: &str = "demo@example.org";

/// How far a run has come.
#[derive(Debug, Default)]
pub struct Demo {
    session: Option<String>,
    token: Option<String>,
    sandbox: Option<String>,
    has_run: bool,
    is_destroyed: bool,
    /// The steps that were done and how long each took, in order.
    pub steps: Vec<(&'static str, Duration)>,
}

impl Demo {
    /// Does what is left to do. Safe to call again after an error, with a client of the restarted server.
    pub async fn run(
        &mut self,
        client: &Client,
        smtp: &mut SmtpSink,
        tell: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let session = match self.session.clone() {
            Some(session) => session,
            None => self.sign_in(client, smtp, tell).await?,
        };
        let token = match self.token.clone() {
            Some(token) => token,
            None => self.make_token(&client.with_token(session), tell).await?,
        };
        let user = client.with_token(token);
        let sandbox = match self.sandbox.clone() {
            Some(sandbox) => sandbox,
            None => self.create_sandbox(&user, tell).await?,
        };
        if !self.has_run {
            self.use_sandbox(&user, &sandbox, tell).await?;
        }
        if !self.is_destroyed {
            self.destroy(&user, &sandbox, tell).await?;
        }
        self.see_usage(&user, &sandbox, tell).await
    }

    fn done(&mut self, tell: &mut dyn FnMut(&str), step: &'static str, what: &str, since: Instant) {
        let took = since.elapsed();
        tell(&format!("{step:<22} {:>7.0} ms   {what}", took.as_secs_f64() * 1000.0));
        self.steps.push((step, took));
    }

    async fn sign_in(
        &mut self,
        client: &Client,
        smtp: &mut SmtpSink,
        tell: &mut dyn FnMut(&str),
    ) -> Result<String> {
        let started = Instant::now();
        let asked = client.post("/auth/magic-link/request", json!({ "email": EMAIL })).await?.expect(200)?;
        let code = smtp.code_to(EMAIL).await?;
        self.done(tell, "code by mail", "six digits came over SMTP", started);
        let started = Instant::now();
        let body = json!({ "email": EMAIL, "code": code, "challengeId": asked["challengeId"] });
        let signed_in = client.post("/auth/otp/verify", body).await?.expect(200)?;
        let session = text(&signed_in, "token")?;
        self.done(tell, "signed in", "the code is used up", started);
        self.session = Some(session.clone());
        Ok(session)
    }

    async fn make_token(&mut self, client: &Client, tell: &mut dyn FnMut(&str)) -> Result<String> {
        let started = Instant::now();
        let made = client.post("/tokens", json!({ "name": "demo" })).await?.expect(201)?;
        let token = text(&made, "token")?;
        self.done(tell, "API token", "shown this once", started);
        self.token = Some(token.clone());
        Ok(token)
    }

    async fn create_sandbox(&mut self, user: &Client, tell: &mut dyn FnMut(&str)) -> Result<String> {
        let started = Instant::now();
        let wish = json!({ "template": "python-3.11", "timeout": 120, "metadata": { "purpose": "demo" } });
        let made =
            user.post_with("/sandboxes", wish, &[("idempotency-key", "demo-sandbox")]).await?.expect(201)?;
        let sandbox = text(&made, "sandboxID")?;
        self.done(tell, "sandbox", "a microVM with a kernel of its own", started);
        self.sandbox = Some(sandbox.clone());
        Ok(sandbox)
    }

    async fn use_sandbox(&mut self, user: &Client, sandbox: &str, tell: &mut dyn FnMut(&str)) -> Result<()> {
        let at = |rest: &str| format!("/sandboxes/{sandbox}/{rest}");
        let started = Instant::now();
        let echoed = user
            .post(&at("commands"), json!({ "command": "echo hello from $(uname -sr)" }))
            .await?
            .expect(200)?;
        let output = text(&echoed, "stdout")?;
        ensure!(output.starts_with("hello from Linux"), "the guest said something else");
        self.done(tell, "command", output.trim(), started);

        let started = Instant::now();
        let code = json!({ "language": "python", "code": "print(sum(range(10)))" });
        let ran = user.post(&at("code"), code).await?.expect(200)?;
        ensure!(text(&ran, "stdout")?.trim() == "45", "Python counted wrong");
        self.done(tell, "Python", "print(sum(range(10))) → 45", started);

        let started = Instant::now();
        let file = json!({ "path": "notes.txt", "content": "kept in guest memory" });
        user.post(&at("files"), file).await?.expect(200)?;
        let read = user.get(&at("files?path=notes.txt")).await?.expect(200)?;
        ensure!(text(&read, "content")? == "kept in guest memory", "the file came back changed");
        self.done(tell, "file", "written and read back", started);
        self.has_run = true;
        Ok(())
    }

    async fn destroy(&mut self, user: &Client, sandbox: &str, tell: &mut dyn FnMut(&str)) -> Result<()> {
        let started = Instant::now();
        let path = format!("/sandboxes/{sandbox}");
        let gone = user.delete(&path).await?;
        ensure!(gone.status.as_u16() == 204, "expected 204, got {}: {}", gone.status, gone.text());
        wait_for(Duration::from_secs(30), async || {
            Ok((user.get(&path).await?.json()["state"] == "stopped").then_some(()))
        })
        .await
        .context("the sandbox did not stop")?;
        self.done(tell, "destroyed", "its process and memory are gone", started);
        self.is_destroyed = true;
        Ok(())
    }

    async fn see_usage(&mut self, user: &Client, sandbox: &str, tell: &mut dyn FnMut(&str)) -> Result<()> {
        let started = Instant::now();
        let usage = user.get("/account/usage").await?.expect(200)?;
        let sandboxes = usage["sandboxes"].as_array().context("the usage lists no sandboxes")?;
        let billed = sandboxes
            .iter()
            .find(|used| used["sandboxID"] == sandbox)
            .context("the sandbox is not on the bill")?;
        let wall = billed["wallMs"].as_u64().context("the bill names no time")?;
        ensure!(wall > 0, "the bill says that it never ran");
        self.done(tell, "usage", &format!("{wall} ms are on the bill"), started);
        Ok(())
    }
}

/// Asks again until there is an answer, at most for `limit`.
pub async fn wait_for<T>(limit: Duration, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        ensure!(started.elapsed() < limit, "not within {} s", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn text(value: &Value, field: &str) -> Result<String> {
    Ok(value[field].as_str().with_context(|| format!("the answer has no {field}"))?.to_owned())
}
