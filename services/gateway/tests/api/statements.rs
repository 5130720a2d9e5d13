//! Closed months and the month under way, as JSON and as CSV.

use hyper::StatusCode;
use omnirun_events::billing::{Correction, StatementCorrected};
use omnirun_events::envelope::Role;
use omnirun_events::unit::{Day, MicroCents};
use omnirun_events::*;
use serde_json::json;

use crate::call::Call;
use crate::world::{World, eventually_async};

/// 2027-01-01.
const JANUARY: Day = Day(20_819);

#[tokio::test]
async fn a_closed_month_is_shown_as_it_was_recorded_with_what_was_corrected_since() {
    let world = World::new().await;
    let token = world.token().await;
    let get = async |path: &str| Call::new("GET", path).key(&token).send(world.gateway).await;
    assert_eq!(get("/account/statements").await.json(), json!([]));
    let start = world.close_month(JANUARY, 7_000_001).await.start;
    world.close_month(Day(JANUARY.0 + 31), 0).await;
    let corrected = StatementCorrected { start, correction: Correction::Credit, amount: MicroCents(2) };
    let kind = SubjectKind::Billing(world.account);
    let at = world.writer.append(Role::Commands, kind, vec![corrected.into()]).await;
    world.billing.reached(at.sequence, std::time::Duration::from_secs(10)).await.expect("it follows");

    let list = get("/account/statements").await.json();
    let months: Vec<_> = list.as_array().expect("a list").iter().map(|one| one["month"].clone()).collect();
    assert_eq!(months, [json!("2027-02"), json!("2027-01")]);
    assert!(list[0].get("lines").is_none());
    let one = get("/account/statements/2027-01").await.json();
    assert_eq!(one["amount"], json!({"microCents": 7_000_001, "cents": 7}));
    assert_eq!(one["due"], json!({"microCents": 6_999_999, "cents": 6}));
    assert_eq!(one["corrections"][0]["kind"], "credit");
    let line =
        json!({"day": "2027-01-01", "cpuCount": 1, "memoryMB": 512, "sandboxes": 2, "standardSeconds": 61});
    assert_eq!(one["lines"], json!([line]));
    assert_eq!((&one["priceFrom"], &one["plan"]), (&json!("2026-01-01"), &json!("launch")));
    // Months that lie in a range, at least in part.
    for (range, expected) in [
        ("from=2027-02-01", &["2027-02"][..]),
        ("from=2027-01-31&to=2027-02-02", &["2027-02", "2027-01"]),
        ("to=2027-02-01T00:00:00Z", &["2027-01"]),
        ("from=2027-04-01", &[]),
    ] {
        let list = get(&format!("/account/statements?{range}")).await.json();
        let months: Vec<_> =
            list.as_array().expect("a list").iter().map(|one| one["month"].as_str()).collect();
        assert_eq!(months, expected.iter().copied().map(Some).collect::<Vec<_>>(), "{range}");
    }
    for wrong in ["from=x", "to=2027-02-30", "from=2027-03-01&to=2027-02-01"] {
        let answer = get(&format!("/account/statements?{wrong}")).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
    for other in ["2027-03", "2027-1", "x"] {
        assert_eq!(get(&format!("/account/statements/{other}")).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn statements_come_as_csv_too() {
    let world = World::new().await;
    let token = world.token().await;
    world.close_month(JANUARY, 7).await;
    let get = async |path: &str| Call::new("GET", path).key(&token).send(world.gateway).await;
    let all = get("/account/statements?format=csv").await;
    assert_eq!(all.header("content-type"), Some("text/csv; charset=utf-8"));
    let expected = "month,start,end,plan,priceFrom,standardSeconds,overageSeconds,amountMicroCents,dueMicroCents\r\n\
                    2027-01,2027-01-01T00:00:00.000Z,2027-02-01T00:00:00.000Z,launch,2026-01-01,61,0,7,7\r\n";
    assert_eq!(String::from_utf8_lossy(&all.body), expected);
    let one = get("/account/statements/2027-01?format=csv").await;
    let expected = "day,cpuCount,memoryMB,sandboxes,standardSeconds\r\n2027-01-01,1,512,2,61\r\n";
    assert_eq!(String::from_utf8_lossy(&one.body), expected);
    let wrong = get("/account/statements?format=xml").await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn usage_is_of_the_current_month_unless_a_range_is_asked_for() {
    let world = World::new().await;
    let token = world.token().await;
    world.sandbox().await;
    let get = async |path: &str| Call::new("GET", path).key(&token).send(world.gateway).await;
    // The meters' view follows by itself.
    let usage = eventually_async(async || {
        let usage = get("/account/usage").await.json();
        (usage["sandboxes"].as_array().map(Vec::len) == Some(1)).then_some(usage)
    });
    let usage = usage.await;
    let month = &usage["month"];
    assert_eq!(usage["from"], month["start"]);
    assert_eq!(month["soFar"]["amount"], json!({"microCents": 0, "cents": 0}));
    assert!(month["forecast"].is_object() && month["lines"] == json!([]), "{usage}");
    let ranged = get("/account/usage?from=2020-01-01").await.json();
    assert!(ranged.get("month").is_none() && ranged["from"] == "2020-01-01T00:00:00.000Z", "{ranged}");
}
