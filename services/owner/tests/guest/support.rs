//! Starting an owner process and talking to it. Whatever a test starts ends with it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_vmm_api::{
    MemoryBacking, MemoryMib, MonitorChoice, Purpose, Vcpus,
    owner::{
        Claimed, Final, OwnerSpec, SOCKET, Stage, StartFrom, StartWhen, Status, boot_limit_default,
        unattended_limit_default,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

/// How long anything may take before a test gives up; boots on a busy machine are slow.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The template store, or the sentence that says how to get one.
pub fn store() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.data/images");
    let store = std::env::var_os("OMNIRUN_IMAGES").map_or_else(default, PathBuf::from);
    let made = store.join("templates/base/template.json");
    assert!(
        made.is_file(),
        "there is no template store: make it with scripts/guest-image, or set OMNIRUN_IMAGES"
    );
    store.canonicalize().expect("it is there")
}

/// An owner process with its guest.
pub struct Owner {
    pub process: Child,
    pub state: PathBuf,
    requests: http2::SendRequest<Full<Bytes>>,
    connection: AbortHandle,
    _home: tempfile::TempDir,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // The guest dies with its owner.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The spec of most tests.
pub fn spec(state: &Path, template: &str) -> OwnerSpec {
    OwnerSpec {
        vm_id: "test".into(),
        store: store(),
        template: template.into(),
        state_dir: state.into(),
        vcpus: Vcpus(1),
        memory: MemoryMib(256),
        backing: MemoryBacking::Anonymous,
        // On every host, so that all see the same; the lab's cases have the other one.
        monitor: MonitorChoice::Qemu,
        start_from: StartFrom::Boot,
        start_when: StartWhen::Now,
        purpose: Purpose::Sandbox,
        network: None,
        boot_limit: boot_limit_default(),
        unattended_limit: unattended_limit_default(),
    }
}

/// Starts an owner and waits until its guest answers.
pub async fn start(change: impl FnOnce(&mut OwnerSpec)) -> Owner {
    let mut owner = begin(change).await;
    owner.wait_for(|status| status.stage != Stage::Starting).await;
    owner
}

/// Starts an owner and waits for nothing but its socket.
pub async fn begin(change: impl FnOnce(&mut OwnerSpec)) -> Owner {
    let home = tempfile::tempdir().expect("a directory for the test");
    let state = home.path().join("vm");
    let mut spec = spec(&state, "base");
    change(&mut spec);
    let mut process = Command::new(env!("CARGO_BIN_EXE_omnirun-owner"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("the owner's program was built with the tests");
    let text = serde_json::to_vec(&spec).expect("a spec is JSON");
    process.stdin.take().expect("it is a pipe").write_all(&text).expect("the owner reads it");
    let (requests, connection) = connect(&state.join(SOCKET), &mut process).await;
    Owner { process, state, requests, connection, _home: home }
}

async fn connect(socket: &Path, process: &mut Child) -> (http2::SendRequest<Full<Bytes>>, AbortHandle) {
    let since = Instant::now();
    loop {
        if let Ok(stream) = tokio::net::UnixStream::connect(socket).await {
            let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (requests, connection) = shaken.expect("the owner speaks HTTP/2");
            return (requests, tokio::spawn(connection).abort_handle());
        }
        let ended = process.try_wait().expect("it is our child");
        assert!(ended.is_none() && since.elapsed() < LIMIT, "the owner does not listen: {ended:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Owner {
    /// Goes away as a worker that is killed.
    pub fn disconnect(&self) {
        self.connection.abort();
    }

    /// Starts one and claims its guest.
    pub async fn claimed() -> Self {
        let mut owner = start(|_| ()).await;
        owner.claim("sandbox-1", json!(null)).await;
        owner
    }

    pub async fn claim(&mut self, sandbox: &str, end_ms: Value) -> Claimed {
        let wish = json!({"sandbox_id": sandbox, "hostname": sandbox, "end_ms": end_ms, "envs": {"FROM_CLAIM": "yes"}});
        self.ask("POST", "/owner/claim", &wish).await
    }

    pub async fn send(&mut self, method: &str, path: &str, body: Bytes) -> Response<Incoming> {
        self.send_with(Request::builder().method(method).uri(format!("http://owner{path}")), body).await
    }

    pub async fn send_with(
        &mut self,
        head: hyper::http::request::Builder,
        body: Bytes,
    ) -> Response<Incoming> {
        let request = head.body(Full::new(body)).expect("a test's request is one");
        let sent = async {
            self.requests.ready().await.expect("the owner is there");
            self.requests.send_request(request).await.expect("the owner answers")
        };
        tokio::time::timeout(LIMIT, sent).await.expect("the owner answers in time")
    }

    /// Asks and expects 200 with JSON.
    #[track_caller]
    pub fn ask<'a, T: DeserializeOwned>(
        &'a mut self,
        method: &'a str,
        path: &'a str,
        body: &'a Value,
    ) -> impl Future<Output = T> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let (status, text) = self.raw(method, path, body).await;
            assert_eq!(status, StatusCode::OK, "{caller}: {}", String::from_utf8_lossy(&text));
            serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{caller}: {error}"))
        }
    }

    pub async fn raw(&mut self, method: &str, path: &str, body: &Value) -> (StatusCode, Bytes) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let answer = self.send(method, path, body).await;
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("the body ends").to_bytes())
    }

    /// Status and code of a refusal.
    pub async fn refused(&mut self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let (status, text) = self.raw(method, path, body).await;
        let refusal: Value = serde_json::from_slice(&text).expect("a refusal is JSON");
        (status.as_u16(), refusal["code"].as_str().expect("it has a code").to_owned())
    }

    /// Runs a command in the foreground.
    pub async fn run(&mut self, command: &str) -> Value {
        self.ask("POST", "/agent/commands", &json!({"command": command})).await
    }

    pub async fn status(&mut self) -> Status {
        self.ask("GET", "/owner/status", &Value::Null).await
    }

    pub async fn wait_for(&mut self, is_so: impl Fn(&Status) -> bool) -> Status {
        let since = Instant::now();
        loop {
            let status = self.status().await;
            if is_so(&status) {
                return status;
            }
            assert!(since.elapsed() < LIMIT, "the owner stays {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for the process's own end and reads what it left.
    pub async fn left(&mut self) -> Final {
        let since = Instant::now();
        while self.process.try_wait().expect("it is our child").is_none() {
            assert!(since.elapsed() < LIMIT, "the owner does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let names: Vec<_> =
            std::fs::read_dir(&self.state).expect("it is there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["final.json"], "only the numbers are left");
        let text = std::fs::read(self.state.join("final.json")).expect("it is there");
        serde_json::from_slice(&text).expect("it is JSON")
    }
}

/// Whether a process is there and no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
