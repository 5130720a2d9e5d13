//! P10: code that users execute is not logged, stored or inspected: no canary of the data path is in any file, event or log line.

use anyhow::Result;
use omnirun_test_support::up::ops;
use omnirun_test_support::world::{World, destroy, files_holding, sandbox};
use serde_json::json;

/// One canary per way into and out of a sandbox.
const WAYS: [&str; 9] =
    ["command", "argument", "environment", "filename", "content", "stdin", "code", "stdout", "stderr"];

fn canary(way: &str) -> String {
    format!("p10canary{way}7f3a91")
}

#[tokio::test]
async fn nothing_of_the_data_path_is_in_a_file_an_event_or_a_log_line() -> Result<()> {
    let mut world = World::start(&["--pool", "0"]).await?;
    let (user, made) = world.user("p10@example.org").await?;
    let environment = json!({ "SECRET": canary("environment") });
    let wish = json!({ "template": "python-3.11", "timeout": 120, "envVars": environment });
    let id = sandbox(&user, wish).await?;
    let at = |rest: &str| format!("/sandboxes/{id}/{rest}");

    let command =
        format!(": {}; echo {} $SECRET; echo {} >&2", canary("command"), canary("stdout"), canary("stderr"));
    let ran = user.post(&at("commands"), json!({ "command": command })).await?.expect(200)?;
    let said = ran["stdout"].as_str().unwrap_or_default();
    assert!(said.contains(&canary("environment")), "the environment reached the guest: {ran}");
    let file = json!({ "path": canary("filename"), "content": canary("content") });
    user.post(&at("files"), file).await?.expect(200)?;
    user.get(&at(&format!("files?path={}", canary("filename")))).await?.expect(200)?;
    let code = json!({ "language": "python", "code": format!("print('{}')", canary("code")) });
    user.post(&at("code"), code).await?.expect(200)?;
    let waiting = json!({ "command": format!("cat # {}", canary("argument")), "background": true });
    let pid = user.post(&at("commands"), waiting).await?.expect(200)?["pid"].clone();
    user.post(&at(&format!("commands/{pid}/stdin")), json!({ "data": canary("stdin") })).await?;
    // Wrong requests are where values like to end up in messages.
    let wrong = user.post(&at("commands"), json!({ "command": 7, "cwd": canary("command") })).await?;
    assert_eq!(wrong.status.as_u16() / 100, 4);
    assert!(!wrong.text().contains("p10canary"), "an error echoes its input: {}", wrong.text());

    let (exit, events) = ops(&world.data(), &["tail", "--json", "--from", "1"]).await?;
    assert_eq!(exit, 0, "{events}");
    assert!(
        events.contains(made["hint"].as_str().expect("a hint is shown")),
        "the search finds what is stored"
    );
    destroy(&user, &id).await?;
    let (_, after) = ops(&world.data(), &["tail", "--json", "--from", "1"]).await?;
    let log_lines = world.log_lines();
    for way in WAYS {
        assert!(!events.contains(&canary(way)) && !after.contains(&canary(way)), "{way} is in an event");
        assert!(!log_lines.contains(&canary(way)), "{way} is in the log lines");
        assert_eq!(
            files_holding(world.directory(), canary(way).as_bytes())?,
            Vec::<std::path::PathBuf>::new()
        );
    }
    let planted = world.directory().join("data/planted");
    std::fs::write(&planted, canary("command"))?;
    assert_eq!(files_holding(world.directory(), canary("command").as_bytes())?, [planted]);
    world.close().await
}
