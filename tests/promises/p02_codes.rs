//! P2: a one-time code sent to the address; no password, and nothing on disk from which a code could be learned.

use anyhow::Result;
use omnirun_test_support::http::Client;
use omnirun_test_support::smtp::SmtpSink;
use omnirun_test_support::world::{World, files_holding};
use serde_json::{Value, json};

const EMAIL: &str = "p02@example.org";

async fn ask(client: &Client, smtp: &mut SmtpSink) -> Result<(Value, String)> {
    let asked = client.post("/auth/magic-link/request", json!({ "email": EMAIL })).await?.expect(200)?;
    let code = smtp.code_to(EMAIL).await?;
    Ok((asked["challengeId"].clone(), code))
}

async fn verify(client: &Client, challenge: &Value, code: &str) -> Result<u16> {
    let body = json!({ "email": EMAIL, "code": code, "challengeId": challenge });
    Ok(client.post("/auth/otp/verify", body).await?.status.as_u16())
}

/// Six digits that are not these.
fn another(code: &str) -> String {
    let number: u32 = code.parse().expect("a code is six digits");
    format!("{:06}", (number + 1) % 1_000_000)
}

#[tokio::test]
async fn a_mailed_code_signs_in_once() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let client = world.up.client();
    let (challenge, code) = ask(&client, &mut world.smtp).await?;
    assert_eq!(code.len(), 6);
    assert_eq!(verify(&client, &challenge, &another(&code)).await?, 401, "a wrong code");
    assert_eq!(verify(&client, &challenge, &code).await?, 200, "the right code");
    assert_eq!(verify(&client, &challenge, &code).await?, 401, "the same code again");
    world.close().await
}

#[tokio::test]
async fn after_five_wrong_tries_the_right_code_is_refused_too() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let client = world.up.client();
    let (challenge, code) = ask(&client, &mut world.smtp).await?;
    for _ in 0..5 {
        assert_eq!(verify(&client, &challenge, &another(&code)).await?, 401);
    }
    assert_eq!(verify(&client, &challenge, &code).await?, 401);
    let (challenge, code) = ask(&client, &mut world.smtp).await?;
    assert_eq!(verify(&client, &challenge, &code).await?, 200, "a new challenge works");
    world.close().await
}

#[tokio::test]
async fn the_answer_is_the_same_for_known_and_unknown_addresses() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    world.sign_in(EMAIL).await?;
    let client = world.up.client();
    let known = client.post("/auth/magic-link/request", json!({ "email": EMAIL })).await?;
    let unknown = client.post("/auth/magic-link/request", json!({ "email": "nobody@example.org" })).await?;
    let shape = |answer: &omnirun_test_support::http::Answer| {
        let body = answer.json();
        let names: Vec<_> = answer.headers.keys().filter(|name| *name != "date").cloned().collect();
        (answer.status, names, body["expiresIn"].clone(), body["resendAfter"].clone(), answer.body.len())
    };
    assert_eq!(shape(&known), shape(&unknown));
    world.close().await
}

#[tokio::test]
async fn neither_the_code_nor_the_address_is_on_disk() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let client = world.up.client();
    let (challenge, code) = ask(&client, &mut world.smtp).await?;
    assert_eq!(verify(&client, &challenge, &code).await?, 200);
    let log_lines = world.log_lines();
    let directory = world.stop().await?;
    // Digits between word boundaries: a moment's microseconds may hold any six digits.
    let is_in_log = log_lines.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == code);
    assert!(!is_in_log, "the code is in the log lines");
    for needle in [format!("\"{code}\""), format!("{} {}", &code[..3], &code[3..]), EMAIL.to_owned()] {
        assert_eq!(files_holding(directory.path(), needle.as_bytes())?, Vec::<std::path::PathBuf>::new());
    }
    let planted = directory.path().join("data/planted");
    std::fs::write(&planted, format!("code \"{code}\" for {EMAIL}"))?;
    assert_eq!(
        files_holding(directory.path(), EMAIL.as_bytes())?,
        [planted],
        "the search finds what is there"
    );
    Ok(())
}
