//! P1: sign-up collects the email address and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use omnirun_test_support::export::Unpacked;
use omnirun_test_support::world::{World, files_holding};
use serde_json::{Value, json};

/// What a browser says of itself and of whoever uses it.
const SAID: [(&str, &str); 5] = [
    ("user-agent", "Canary/1.0 (userAgentCanary)"),
    ("accept-language", "xx-languageCanary"),
    ("x-forwarded-for", "203.0.113.77"),
    ("referer", "https://refererCanary.example/"),
    ("x-real-ip", "203.0.113.78"),
];

#[tokio::test]
async fn an_export_of_a_fresh_account_lists_every_field_that_is_held() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let client = world.up.client();
    let email = "p01@example.org";
    let asked =
        client.post_with("/auth/magic-link/request", json!({ "email": email }), &SAID).await?.expect(200)?;
    let code = world.smtp.code_to(email).await?;
    let body =
        json!({ "email": email, "code": code, "challengeId": asked["challengeId"], "name": "nameCanary" });
    let token = client.post_with("/auth/otp/verify", body, &SAID).await?.expect(200)?;
    let user = client.with_token(token["token"].as_str().expect("it is shown"));

    let archive = user.post("/account/export", json!({})).await?;
    assert_eq!(archive.status, 200, "{}", archive.text());
    let archive = Unpacked::of(&archive.body)?;
    let account = archive.json("account.json")?;
    assert_eq!(names(&account), ["createdAt", "email", "id", "plan"]);
    assert_eq!(account["email"], email);
    let tokens = archive.json("tokens.json")?;
    let expected = ["createdAt", "expiresAt", "hint", "id", "kind", "name", "revokedAt", "scopes"];
    assert_eq!(
        (tokens.as_array().map(Vec::len), names(&tokens[0])),
        (Some(1), expected.map(String::from).to_vec())
    );
    assert_eq!((&tokens[0]["kind"], &tokens[0]["name"]), (&json!("cli"), &Value::Null));
    assert_eq!((archive.json("sandboxes.json")?, archive.json("usage.json")?), (json!([]), json!([])));

    let mut fields: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in archive.lines("events.jsonl")? {
        assert_eq!(names(&line["header"]), HEADER);
        for event in line["events"].as_array().expect("a list") {
            let name = event["event"].as_str().expect("a name").to_owned();
            fields.entry(name).or_default().extend(names(&event["body"]));
        }
    }
    let fields: Vec<(String, Vec<String>)> =
        fields.into_iter().map(|(name, fields)| (name, fields.into_iter().collect())).collect();
    let of = |name: &str, fields: &[&str]| {
        (name.to_owned(), fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(
        fields,
        [
            of("account.opened", &["email", "plan"]),
            of("token.created", &["expires_at", "hint", "kind", "name", "scopes", "token", "verifier"]),
        ]
    );

    let directory = world.stop().await?;
    for canary in ["userAgentCanary", "languageCanary", "203.0.113.", "refererCanary", "nameCanary", email] {
        assert_eq!(
            files_holding(directory.path(), canary.as_bytes())?,
            Vec::<std::path::PathBuf>::new(),
            "{canary} is on the disk"
        );
    }
    Ok(())
}

const HEADER: [&str; 10] =
    ["actor", "at", "cause", "commit", "events", "format", "key", "previous", "subject", "version"];

fn names(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
    names.sort();
    names
}
