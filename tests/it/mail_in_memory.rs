//! `omnirun up` without a mail server: its output may be kept on a disk by whoever started it, so no address and no code is in it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use omnirun_test_support::demo::wait_for;
use omnirun_test_support::up::{Up, log_path};
use serde_json::json;

/// How long a mail may take to its mailbox.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn where_output_is_no_terminal_a_mail_is_in_the_mailbox_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let up = Up::start(&directory.path().join("data"), &["--pool", "0"]).await?;
    let (client, email) = (up.client(), "somebody@example.org");
    client.post("/auth/magic-link/request", json!({ "email": email })).await?.expect(200)?;
    let printed = || std::fs::read_to_string(log_path(&up.data)).unwrap_or_default();
    wait_for(PATIENCE, async || Ok(printed().contains("-- a mail is at http://").then_some(())))
        .await
        .context("it does not say where the mail is")?;
    let mails = client.get("/dev/mailbox").await?.expect(200)?;
    let code = mails[0]["code"].as_str().context("the mailbox has the code")?;
    let grouped = format!("{} {}", &code[..3], &code[3..]);
    ensure!(mails[0]["to"] == email, "it is another mail: {mails}");
    for secret in [email, code, &grouped] {
        ensure!(!printed().contains(secret), "{secret} was printed: {}", printed());
    }
    let verify = json!({ "email": email, "code": code });
    client.post("/auth/otp/verify", verify).await?.expect(200)?;
    up.stop().await
}
