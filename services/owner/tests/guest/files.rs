//! Files.

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::Owner;

#[tokio::test(flavor = "multi_thread")]
async fn eight_mebibytes_go_in_and_come_back_as_they_were() {
    let mut guest = Owner::claimed().await;
    let bytes: Vec<u8> = (0..8 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = guest.send("PUT", "/agent/files/upload?path=deep/er/big.bin", bytes.clone().into()).await;
    assert_eq!(answer.status(), 200);
    let entry: Value =
        serde_json::from_slice(&answer.into_body().collect().await.expect("it ends").to_bytes())
            .expect("JSON");
    let path = "/home/user/deep/er/big.bin";
    assert_eq!(entry, json!({"name": "big.bin", "path": path, "is_dir": false, "size": 8 << 20}));
    let answer = guest.send("GET", &format!("/agent/files/download?path={path}"), Bytes::new()).await;
    assert_eq!(answer.headers()["content-length"], "8388608");
    assert!(answer.into_body().collect().await.expect("it ends").to_bytes() == bytes, "the bytes differ");
    assert_eq!(guest.run("stat -c %U deep deep/er/big.bin").await["stdout"], "user\nuser\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_listed_renamed_and_removed() {
    let mut guest = Owner::claimed().await;
    let wish = json!([{"path": "a.txt", "content": "ä\n"}, {"path": "d/b.txt", "content": ""}]);
    let made: Vec<Value> = guest.ask("POST", "/agent/files/batch", &wish).await;
    assert_eq!((made.len(), &made[0]["size"]), (2, &json!(3)));
    let read: Value = guest.ask("GET", "/agent/files?path=a.txt", &Value::Null).await;
    assert_eq!(read, json!({"content": "ä\n"}));
    let renamed: Value =
        guest.ask("POST", "/agent/files/rename", &json!({"oldPath": "a.txt", "newPath": "d/c.txt"})).await;
    assert_eq!(renamed["path"], "/home/user/d/c.txt");
    let _: Value = guest.ask("POST", "/agent/files/mkdir", &json!({"path": "d/e/f"})).await;
    let listed: Vec<Value> = guest.ask("GET", "/agent/files/list?path=d&depth=2", &Value::Null).await;
    let names: Vec<_> = listed.iter().map(|entry| entry["name"].as_str().expect("text")).collect();
    assert_eq!(names, ["b.txt", "c.txt", "e", "f"]);
    assert_eq!(guest.raw("DELETE", "/agent/files?path=d", &Value::Null).await.0, 204);
    let exists: Value = guest.ask("GET", "/agent/files/exists?path=d", &Value::Null).await;
    assert_eq!(exists, json!({"exists": false}));
    assert_eq!(
        guest.refused("GET", "/agent/files/info?path=d", &Value::Null).await,
        (404, "not_found".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_with_a_parent_or_a_nul_are_refused_and_nothing_is_echoed() {
    let mut guest = Owner::claimed().await;
    for path in ["../canary", "/tmp/../canary", "canary%00"] {
        let route = format!("/agent/files?path={path}");
        assert_eq!(guest.refused("GET", &route, &Value::Null).await, (422, "bad_path".to_owned()));
        let (_, text) = guest.raw("GET", &route, &Value::Null).await;
        assert!(!String::from_utf8_lossy(&text).contains("canary"));
    }
    let wish = json!({"path": "a/../../canary", "content": "x"});
    assert_eq!(guest.refused("POST", "/agent/files", &wish).await, (422, "bad_path".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_is_refused_and_holds_nothing_up() {
    let mut guest = Owner::claimed().await;
    guest.run("mkfifo fifo").await;
    // As many of each as the agent has threads for its work.
    for _ in 0..2 {
        for (method, route) in [("PUT", "upload"), ("GET", "download")] {
            let path = format!("/agent/files/{route}?path=fifo");
            assert_eq!(guest.refused(method, &path, &Value::Null).await, (422, "not_file".to_owned()));
        }
    }
    let wish = json!({"path": "fifo", "content": "x"});
    assert_eq!(guest.refused("POST", "/agent/files", &wish).await, (422, "not_file".to_owned()));
    assert_eq!(guest.run("test -p fifo && echo there").await["stdout"], "there\n");
}
