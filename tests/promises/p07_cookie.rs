//! P7: one session cookie, `omnirun_token`, and no other.

use anyhow::Result;
use hyper::Method;
use hyper::body::Bytes;
use omnirun_test_support::http::{Answer, Client};
use omnirun_test_support::world::World;
use serde_json::json;

/// As a browser's page sends them.
const PAGE: (&str, &str) = ("sec-fetch-site", "same-origin");

#[tokio::test]
async fn a_browser_gets_that_cookie_alone_whatever_it_asks_for() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let client = world.up.client();
    let email = json!({ "email": "p07@example.org" });
    let asked = client.post_with("/auth/magic-link/request", email, &[PAGE]).await?;
    assert_eq!(cookies(&asked), Vec::<String>::new(), "nobody is signed in yet");
    let code = world.smtp.code_to("p07@example.org").await?;
    let body =
        json!({ "email": "p07@example.org", "code": code, "challengeId": asked.json()["challengeId"] });
    let signed_in = client.post_with("/auth/otp/verify", body, &[PAGE]).await?;
    assert_eq!((signed_in.status.as_u16(), signed_in.body.len()), (204, 0), "no token for scripts to read");
    let [set] = cookies(&signed_in).try_into().expect("one cookie");
    let (pair, attributes) = set.split_once("; ").expect("attributes");
    assert_eq!(attributes, "HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=604800");
    assert!(pair.starts_with("omnirun_token=oms_"));

    let headers = [PAGE, ("cookie", pair), ("content-type", "application/json")];
    let mut asked_for = 0;
    for (method, path) in routes(&client).await? {
        let body = Bytes::from(if method == Method::GET { "" } else { "{}" });
        let answer = client.call(method.clone(), &path, body, &headers).await?;
        for set in cookies(&answer) {
            assert!(set.starts_with("omnirun_token="), "{method} {path} sets {set}");
        }
        asked_for += 1;
    }
    assert!(asked_for > 30, "{asked_for} routes");
    world.close().await
}

/// Every route of the document, those that end the session last, and a page that does not exist.
async fn routes(client: &Client) -> Result<Vec<(Method, String)>> {
    let document = client.get("/openapi.json").await?.expect(200)?;
    let mut routes = vec![(Method::GET, "/no/such/page".to_owned())];
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        let path = path.replace("{id}", &"a".repeat(26)).replace("{pid}", "1");
        for method in item.as_object().into_iter().flat_map(serde_json::Map::keys) {
            routes.push((method.to_ascii_uppercase().parse()?, path.clone()));
        }
    }
    routes.sort_by_key(|(method, path)| {
        let ends = path.starts_with("/auth/") || (*method == Method::DELETE && path == "/account");
        (ends, path.clone())
    });
    Ok(routes)
}

fn cookies(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("set-cookie").iter();
    all.map(|value| value.to_str().expect("plain text").to_owned()).collect()
}
