//! Commands and code.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use serde_json::{Value, json};

use crate::support::{self, Owner};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gives_its_output_and_exit_code() {
    let mut guest = Owner::claimed().await;
    assert_eq!(guest.run("echo hello").await, json!({"stdout": "hello\n", "stderr": "", "exit_code": 0}));
    assert_eq!(
        guest.run("echo no >&2; exit 7").await,
        json!({"stdout": "", "stderr": "no\n", "exit_code": 7})
    );
    assert_eq!(guest.run("kill -TERM $$").await["exit_code"], 143);
    let shown = guest.run("whoami; pwd; echo $FROM_CLAIM; hostname").await;
    assert_eq!(shown["stdout"], "user\n/home/user\nyes\nsandbox-1\n");
    let wish = json!({"command": "id -u; pwd; echo $A", "user": "root", "cwd": "/tmp", "envs": {"A": "b"}});
    let shown: Value = guest.ask("POST", "/agent/commands", &wish).await;
    assert_eq!(shown["stdout"], "0\n/tmp\nb\n");
    let wish = json!({"command": "true", "user": "nobody-here"});
    assert_eq!(guest.refused("POST", "/agent/commands", &wish).await, (422, "unknown_user".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_past_its_limit_is_killed_with_its_children() {
    let mut guest = Owner::claimed().await;
    let wish = json!({"command": "echo begun; sleep 1000 & sleep 1000", "timeout": 1});
    let ended: Value = guest.ask("POST", "/agent/commands", &wish).await;
    assert_eq!(ended, json!({"stdout": "begun\n", "stderr": "", "exit_code": 124, "timed_out": true}));
    assert_eq!(guest.run("pgrep sleep").await["exit_code"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_left_behind_does_not_hold_up_the_answer() {
    let mut guest = Owner::claimed().await;
    assert_eq!(guest.run("sleep 1000 & echo done").await["stdout"], "done\n");
    // Nor does it stay unreaped when it ends: process 1 waits for orphans.
    guest.run("pkill sleep; sleep 0.1").await;
    assert_eq!(guest.run("ps -A -o stat= | grep -c Z").await["stdout"], "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_command_is_listed_fed_followed_and_replayed() {
    let mut guest = Owner::claimed().await;
    let wish = json!({"command": "echo before; read line; echo got $line; exit 3", "background": true});
    let started: Value = guest.ask("POST", "/agent/commands", &wish).await;
    let path = format!("/agent/commands/{}", started["pid"]);
    let shown: Value = guest.ask("GET", &path, &Value::Null).await;
    assert_eq!((&shown["running"], &shown["exit_code"]), (&json!(true), &Value::Null));
    let wish = json!({"data": "a line\n"});
    assert_eq!(guest.raw("POST", &format!("{path}/stdin"), &wish).await.0, 204);
    // The stream ends with the exit, and one opened after the end tells the same.
    for _ in 0..2 {
        let (status, text) = guest.raw("GET", &format!("{path}/stream"), &Value::Null).await;
        assert_eq!(status, 200);
        let lines: Vec<Value> = text
            .split(|c| *c == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).expect("JSON"))
            .collect();
        let printed: String = lines.iter().filter_map(|line| line["data"].as_str()).collect();
        assert_eq!(printed, "before\ngot a line\n");
        assert_eq!(lines.last(), Some(&json!({"type": "exit", "exit_code": 3})));
    }
    let all: Vec<Value> = guest.ask("GET", "/agent/commands", &Value::Null).await;
    assert_eq!((all.len(), &all[0]["exit_code"], &all[0]["running"]), (1, &json!(3), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_command_can_be_killed() {
    let mut guest = Owner::claimed().await;
    let started: Value =
        guest.ask("POST", "/agent/commands", &json!({"command": "sleep 1000", "background": true})).await;
    let path = format!("/agent/commands/{}", started["pid"]);
    assert_eq!(guest.raw("DELETE", &path, &Value::Null).await.0, 204);
    let head =
        Request::builder().uri(format!("http://owner{path}/stream")).header("accept", "text/event-stream");
    let answer = guest.send_with(head, Bytes::new()).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let text = answer.into_body().collect().await.expect("it ends").to_bytes();
    assert_eq!(text, "data: {\"type\":\"exit\",\"exit_code\":137}\n\n");
    assert_eq!(guest.refused("DELETE", "/agent/commands/999999", &Value::Null).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_with_the_same_key_runs_once() {
    let mut guest = Owner::claimed().await;
    let send = async |guest: &mut Owner, command: &str| {
        let head = Request::builder()
            .method("POST")
            .uri("http://owner/agent/commands")
            .header("idempotency-key", "key-1");
        let answer = guest.send_with(head, json!({"command": command}).to_string().into()).await;
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.expect("it ends").to_bytes())
    };
    let first = send(&mut guest, "echo x >> count; wc -l < count").await;
    assert_eq!(first, send(&mut guest, "echo x >> count; wc -l < count").await);
    assert!(first.1.windows(4).any(|w| w == b"\"1\\n"));
    assert_eq!(send(&mut guest, "echo other").await.0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_the_limit_is_cut_and_marked() {
    let mut guest = Owner::claimed().await;
    let ended = guest.run("head -c 20000000 /dev/zero | tr '\\0' x").await;
    let length = ended["stdout"].as_str().expect("text").len();
    assert!((16_000_000..=16 * 1024 * 1024).contains(&length), "{length}");
    assert_eq!((&ended["truncated"], &ended["exit_code"]), (&json!(true), &json!(0)));
    // As JSON this would be 120 MB, more than the guest has left.
    let ended = guest.run("head -c 20000000 /dev/zero").await;
    assert_eq!((&ended["truncated"], &ended["exit_code"]), (&json!(true), &json!(0)));
    assert_eq!(guest.run("echo alive").await["stdout"], "alive\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_runs_in_the_language_asked_for() {
    let mut guest = support::start(|spec| spec.template = "python-3.11".into()).await;
    guest.claim("sandbox-1", json!(null)).await;
    for (language, code, printed) in [
        ("python", "import sys\nprint(sys.version_info[:2], input())", "(3, 11) in\n"),
        ("bash", "read a; echo ${a^^}", "IN\n"),
        ("sh", "cat", "in\n"),
    ] {
        let wish = json!({"code": code, "language": language, "stdin": "in\n"});
        let ended: Value = guest.ask("POST", "/agent/code", &wish).await;
        assert_eq!(ended, json!({"stdout": printed, "stderr": "", "exit_code": 0}));
    }
    let long = format!("{}\nprint(1 + 1)", "#".repeat(300_000));
    let ended: Value = guest.ask("POST", "/agent/code", &json!({"code": long, "language": "python"})).await;
    assert_eq!(ended["stdout"], "2\n");
    let wish = json!({"code": "x", "language": "cobol"});
    assert_eq!(guest.refused("POST", "/agent/code", &wish).await, (422, "bad_request".to_owned()));
}
