//! P10 and P1, for every input that there is: whatever is put into a parameter, header or field of any route is in no file, no log line and no
//! record of any log, but for an address, a token's name and a sandbox's metadata, and those only where they are sealed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use omnirun_commands::MasterKey;
use omnirun_events::log::{Stored, read_to_end};
use omnirun_events::subject::Log;
use omnirun_events::{Filter, Sequence};
use omnirun_ops::SocketRead;
use omnirun_test_support::http::{Answer, Client};
use omnirun_test_support::report;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::{World, destroy, sandbox};
use serde_json::{Value, json};

use crate::canaries::walk::{Request, requests};
use crate::canaries::{Canaries, files, is_in};
use crate::opened::Opened;

/// How long a client waits before it goes away, a code run on a busy machine included. A second sandbox, for which there is no room, takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The sealed fields that may hold what a user has put into a request, and where it was put, or how the name of the place begins.
const ALLOWED: [(&str, &[&str]); 3] =
    [("email", &["email"]), ("name", &["token name", "POST /tokens: name"]), ("metadata", &["metadata"])];

/// Sends a request as its user, or without a credential where it has one of its own. None if there is no answer for so long that the client
/// goes away.
async fn send(user: &Client, request: &Request) -> Result<Option<Answer>> {
    let has_own = request
        .headers
        .iter()
        .any(|(name, _)| ["authorization", "cookie", "x-api-key"].contains(&name.as_str()));
    let client = if has_own { user.without_token() } else { user.clone() };
    let headers: Vec<(&str, &str)> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = Bytes::from(request.body.clone());
    let answer = client.call(request.method.clone(), &request.path, body, &headers);
    tokio::time::timeout(PATIENCE, answer).await.ok().transpose()
}

/// Puts a canary where an address, a token's name and a sandbox's metadata are kept; answers somebody with every scope.
async fn fill(world: &mut World, canaries: &mut Canaries) -> Result<Client> {
    let address = |canary: String| format!("{canary}@example.org");
    let first = address(canaries.at("email of a sign-up"));
    let session = world.sign_in(&first).await?;
    let second = address(canaries.at("email of a correction"));
    let asked = session.patch("/account", json!({ "email": second })).await?.expect(202)?;
    let code = world.smtp.code_to(&second).await?;
    let change = json!({ "email": second, "code": code, "challengeId": asked["challengeId"] });
    session.patch("/account", change).await?.expect(200)?;
    let scopes = ["sandbox:create", "sandbox:exec", "sandbox:read", "usage:read", "account:*"];
    let wish = json!({ "name": canaries.at("token name"), "scopes": scopes });
    let made = session.post("/tokens", wish).await?.expect(201)?;
    Ok(session.with_token(made["token"].as_str().context("it is shown once")?))
}

/// Every record of every log, the one in memory too.
async fn everything(world: &World) -> Result<Vec<Stored>> {
    let reader = SocketRead::connect(&world.data()).await.context("the operator's socket does not answer")?;
    let mut all = Vec::new();
    for log in Log::kept().chain([Log::Auth]) {
        all.extend(read_to_end(&reader, log, Filter::all(), Sequence::NONE).await?);
    }
    Ok(all)
}

/// Checks the records: raw, decoded, and with their sealed fields opened.
fn check_records(records: &[Stored], master: &MasterKey, canaries: &Canaries) -> Result<Opened> {
    for stored in records {
        ensure!(!is_in(stored.subject.as_str().as_bytes()), "a canary is in the subject {}", stored.subject);
        ensure!(!is_in(&stored.record), "a canary is in a record on {}", stored.subject);
    }
    let opened = Opened::of(records, master);
    for line in &opened.plain {
        ensure!(!is_in(line.as_bytes()), "a canary of {:?} is not sealed: {line}", canaries.places_in(line));
    }
    for (field, text) in &opened.sealed {
        let allowed = ALLOWED.iter().find(|(name, _)| name == field).map(|(_, place)| *place);
        for place in canaries.places_in(text) {
            let (_, what) = place.rsplit_once(": ").unwrap_or(("", place));
            let is_from = |allowed: &&str| place == *allowed || what.starts_with(*allowed);
            let is_allowed = allowed.is_some_and(|allowed| allowed.iter().any(is_from));
            ensure!(is_allowed, "the sealed field {field} holds what was put into {place}");
        }
    }
    Ok(opened)
}

/// The gateway's line for a request has its method, its route's template, its status and its time, and nothing else.
fn check_request_lines(log: &str, document: &Value) -> Result<()> {
    let routes = document["paths"].as_object().context("a document has paths")?;
    let lines: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once("a request was answered "))
        .map(|(_, fields)| fields)
        .collect();
    ensure!(lines.len() > 300, "hardly a request left a line: {}", lines.len());
    for fields in lines {
        let fields: Vec<(&str, &str)> = fields.split(' ').filter_map(|field| field.split_once('=')).collect();
        let [("method", _), ("route", route), ("status", status), ("micros", micros)] = fields.as_slice()
        else {
            anyhow::bail!("a request's line has other fields: {fields:?}")
        };
        let route = route.trim_matches('"');
        ensure!(route == "none" || routes.contains_key(route), "{route} is no template");
        ensure!(status.parse::<u16>().is_ok() && micros.parse::<u64>().is_ok(), "{fields:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_put_into_any_input_is_nowhere_but_in_the_sealed_fields_that_are_for_it() -> Result<()> {
    let mut world = World::start(&["--pool", "0", "--sandboxes-max", "1"]).await?;
    let mut canaries = Canaries::default();
    let user = fill(&mut world, &mut canaries).await?;
    let metadata = json!({ canaries.at("metadata key"): canaries.at("metadata value") });
    let id = sandbox(&user, json!({ "template": "base", "timeout": 600, "metadata": metadata })).await?;

    let document = user.get("/openapi.json").await?.expect(200)?;
    let all = requests(&document, &id, &mut canaries);
    let mut reached = 0;
    for request in &all {
        let sent = send(&user, request).await.with_context(|| request.what.clone())?;
        let Some(answer) = sent else { continue };
        let said = answer.text();
        ensure!(answer.status.as_u16() != 500, "{}: {said}", request.what);
        ensure!(answer.status.is_success() || !is_in(said.as_bytes()), "{} is echoed: {said}", request.what);
        reached += usize::from(answer.status.is_success());
    }
    report(&format!("p10: {} requests with canaries, {reached} of them did something", all.len()));
    ensure!(reached > 40, "nearly everything was refused");

    let records = everything(&world).await?;
    for prefix in ["evt.", "key.", "auth."] {
        ensure!(records.iter().any(|stored| stored.subject.as_str().starts_with(prefix)), "no {prefix}");
    }
    let master = MasterKey::load(&world.data().join("keys/master.key"))?;
    let opened = check_records(&records, &master, &canaries)?;
    // The negative control of the records: what is sealed there is found when it is opened.
    for (field, places) in [
        ("email", &["email of a correction"][..]),
        ("name", &["token name"][..]),
        ("metadata", &["metadata key", "metadata value"][..]),
    ] {
        let found: BTreeSet<&str> =
            opened.all(field).iter().flat_map(|text| canaries.places_in(text)).collect();
        ensure!(places.iter().all(|place| found.contains(place)), "{field} holds only {found:?}");
    }
    ensure!(files(world.directory())?.is_empty(), "while it runs: {:?}", files(world.directory())?);

    destroy(&user, &id).await?;
    check_records(&everything(&world).await?, &master, &canaries)?;
    let log = world.log_lines();
    check_request_lines(&log, &document)?;
    let directory = world.stop().await?;
    ensure!(files(directory.path())?.is_empty(), "after its end: {:?}", files(directory.path())?);
    // The negative control of the files.
    let planted = directory.path().join("data/planted");
    std::fs::write(
        &planted,
        data_encoding::BASE64.encode(format!("code={}", canaries.at("planted")).as_bytes()),
    )?;
    ensure!(files(directory.path())? == [planted], "the search finds what is there");
    Ok(())
}

/// The negative control of the records, with the one text that an operator may write in the open.
#[tokio::test]
async fn a_canary_that_is_stored_in_the_open_is_found() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let mut canaries = Canaries::default();
    let user = fill(&mut world, &mut canaries).await?;
    let master = MasterKey::load(&world.data().join("keys/master.key"))?;
    check_records(&everything(&world).await?, &master, &canaries)?;
    let account = user.get("/account").await?.expect(200)?;
    let to = world.directory().join("export.zip").to_string_lossy().into_owned();
    let account = account["id"].as_str().context("it has an id")?;
    let export = ["account", "export", account, "--to", &to, "--reason", "request 1"];
    let (exit, said) =
        ops(&world.data(), &[&export[..], &["--operator", &canaries.at("operator")]].concat()).await?;
    ensure!(exit == 0, "{said}");
    let found = check_records(&everything(&world).await?, &master, &canaries);
    ensure!(found.is_err_and(|error| error.to_string().contains("sys.ops")), "it was not noticed");
    world.close().await
}
