//! An owner process with its guest, as the worker starts it: `omnirun-owner` from the initramfs, spec on its standard
//! input, HTTP/2 over its socket, and standard error in a file, as where a worker's log is one.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirun_vmm_api::{
    MemoryBacking, MemoryMib, Millis, MonitorChoice, Purpose, Vcpus,
    owner::{
        Claimed, FINAL, Final, OwnerSpec, SOCKET, Stage, StartFrom, StartWhen, Status,
        unattended_limit_default,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::limit;

/// The template store in the initramfs.
pub const STORE: &str = "/images";
/// The owner.
pub const PROGRAM: &str = "/omnirun-owner";
/// How long one step may take. A boot in the lab takes seconds, eight at once a minute.
const LIMIT: Duration = Duration::from_secs(200);

/// Runs a case's future to its end.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// An owner process. Dropping it kills it, and its guest with it.
pub struct Owner {
    pub process: Child,
    pub state: PathBuf,
    said: PathBuf,
    requests: http2::SendRequest<Full<Bytes>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.state);
        let _ = fs::remove_file(&self.said);
    }
}

/// The spec of most cases.
pub fn spec(name: &str) -> OwnerSpec {
    OwnerSpec {
        vm_id: name.to_owned(),
        store: STORE.into(),
        template: "base".to_owned(),
        state_dir: PathBuf::from("/tmp").join(name),
        vcpus: Vcpus(1),
        memory: MemoryMib(128),
        backing: MemoryBacking::Anonymous,
        monitor: MonitorChoice::Kvm,
        start_from: StartFrom::Boot,
        start_when: StartWhen::Now,
        purpose: Purpose::Sandbox,
        network: None,
        boot_limit: Millis(90_000),
        unattended_limit: unattended_limit_default(),
    }
}

impl Owner {
    /// Starts one and waits until its guest's agent answers.
    pub async fn start(name: &str, change: impl FnOnce(&mut OwnerSpec)) -> Result<Self> {
        let mut owner = Self::begin(name, change).await?;
        owner.wait_ready().await?;
        Ok(owner)
    }

    /// Waits until the guest's agent has answered.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let since = Instant::now();
        while self.status().await?.stage == Stage::Starting {
            ensure!(since.elapsed() < LIMIT, "the guest does not answer: {:?}", self.complaints());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Starts one that waits for the word to restore its guest, and waits until its machine has been made.
    pub async fn spare(name: &str) -> Result<Self> {
        let mut owner = Self::begin(name, |spec| {
            spec.start_from = StartFrom::Snapshot;
            spec.start_when = StartWhen::Told;
        })
        .await?;
        let status = owner.status().await?;
        ensure!(status.stage == Stage::Spare, "it is not one");
        let is_made = || !limit::thread_names(status.owner_pid).contains(&"machine".to_owned());
        limit::wait_until("its machine is not made", Duration::from_millis(5), is_made)?;
        Ok(owner)
    }

    /// How far the guest behind a socket is, whoever started it.
    pub async fn stage_of(socket: &Path) -> Result<Stage> {
        let mut requests = shake(tokio::net::UnixStream::connect(socket).await?).await?;
        let request = Request::get("http://owner/owner/status").body(Full::new(Bytes::new()))?;
        let answer = tokio::time::timeout(LIMIT, requests.send_request(request)).await??;
        let text = answer.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice::<Status>(&text)?.stage)
    }

    /// Starts one and waits for nothing but its socket.
    pub async fn begin(name: &str, change: impl FnOnce(&mut OwnerSpec)) -> Result<Self> {
        let mut spec = spec(name);
        change(&mut spec);
        let state = spec.state_dir.clone();
        let said = PathBuf::from(format!("/tmp/{name}.log"));
        let mut process = Command::new(PROGRAM)
            .stdin(Stdio::piped())
            .stderr(File::create(&said)?)
            .spawn()
            .context("cannot start the owner")?;
        process.stdin.take().context("no standard input")?.write_all(&serde_json::to_vec(&spec)?)?;
        let requests = match connect(&state.join(SOCKET), &mut process).await {
            Ok(requests) => requests,
            Err(error) => {
                let _ = process.kill();
                return Err(error.context(complaints(&said)));
            }
        };
        Ok(Self { process, state, said, requests })
    }

    /// Gives the guest to a sandbox.
    pub async fn claim(&mut self, sandbox: &str) -> Result<Claimed> {
        self.ask("POST", "/owner/claim", &json!({"sandbox_id": sandbox, "hostname": sandbox})).await
    }

    /// Runs a command in the guest and answers with what it printed.
    pub async fn run(&mut self, command: &str) -> Result<String> {
        self.run_as("user", command).await
    }

    /// The same as another user of the guest.
    pub async fn run_as(&mut self, user: &str, command: &str) -> Result<String> {
        let wish = json!({"command": command, "user": user, "timeout": 0});
        let said: Value = self.ask("POST", "/agent/commands", &wish).await?;
        ensure!(said["exit_code"] == 0, "{command}: {said}");
        Ok(said["stdout"].as_str().unwrap_or_default().to_owned())
    }

    /// What the owner says about itself.
    pub async fn status(&mut self) -> Result<Status> {
        self.ask("GET", "/owner/status", &Value::Null).await
    }

    /// Ends the guest and waits for the process.
    pub async fn kill(mut self) -> Result<Final> {
        self.end().await
    }

    /// The same, and keeps what is left of it.
    pub async fn kill_and_keep(mut self) -> Result<Final> {
        let left = self.end().await?;
        self.state = PathBuf::new();
        Ok(left)
    }

    /// Waits for the process, which is about to end.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        limit::wait_for_exit(&mut self.process)
    }

    /// What the process, which has ended, said on standard error.
    pub fn complaints(&self) -> String {
        complaints(&self.said)
    }

    /// What is left of a guest whose process has ended.
    pub fn left(&self) -> Result<Final> {
        Ok(serde_json::from_slice(&fs::read(self.state.join(FINAL))?)?)
    }

    /// The answer, or what was left where the process was gone before the answer was: either is what a worker gets.
    async fn end(&mut self) -> Result<Final> {
        let answer = self.ask("POST", "/owner/kill", &json!({})).await;
        ensure!(self.wait()?.success(), "the owner ended badly: {}", self.complaints());
        answer.or_else(|_| self.left())
    }

    /// A process that has hung up ends by itself, or is helped to.
    async fn wait_end(&mut self) {
        let since = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && since.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = self.process.kill();
    }

    /// Asks and expects success.
    pub async fn ask<T: DeserializeOwned>(&mut self, method: &str, path: &str, body: &Value) -> Result<T> {
        let text = self.send(method, path, body).await?;
        let text: &[u8] = if text.is_empty() { b"null" } else { &text };
        serde_json::from_slice(text).with_context(|| format!("{method} {path}"))
    }

    async fn send(&mut self, method: &str, path: &str, body: &Value) -> Result<Bytes> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request =
            Request::builder().method(method).uri(format!("http://owner{path}")).body(Full::new(body))?;
        let exchange = async {
            self.requests.ready().await?;
            let answer = self.requests.send_request(request).await?;
            let status = answer.status();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        match tokio::time::timeout(LIMIT, exchange).await {
            Ok(Ok((status, text))) if status.is_success() || status == StatusCode::NO_CONTENT => Ok(text),
            Ok(Ok((status, text))) => bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&text)),
            Ok(Err(error)) => {
                self.wait_end().await;
                Err(anyhow::Error::from(error).context(self.complaints()).context(format!("{method} {path}")))
            }
            Err(_) => bail!("{method} {path}: no answer"),
        }
    }
}

async fn connect(socket: &Path, process: &mut Child) -> Result<http2::SendRequest<Full<Bytes>>> {
    let since = Instant::now();
    loop {
        if let Ok(stream) = tokio::net::UnixStream::connect(socket).await {
            return shake(stream).await;
        }
        ensure!(process.try_wait()?.is_none(), "the owner ended at once");
        ensure!(since.elapsed() < LIMIT, "the owner does not listen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn shake(stream: tokio::net::UnixStream) -> Result<http2::SendRequest<Full<Bytes>>> {
    let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(requests)
}

/// What a process has said on standard error.
fn complaints(said: &Path) -> String {
    let mut text = fs::read_to_string(said).unwrap_or_default();
    if text.contains("system call") {
        text.push_str(&last_refused_call().unwrap_or_default());
    }
    text
}

/// A store that is the lab's but for one file.
pub fn store_with(path: &str, bytes: &[u8]) -> Result<PathBuf> {
    let store = PathBuf::from("/tmp/other-store");
    let _ = fs::remove_dir_all(&store);
    let files =
        ["kernel/vmlinux", "initramfs.cpio", "templates/base/root.sqfs", "templates/base/template.json"];
    for name in files {
        let at = store.join(name);
        fs::create_dir_all(at.parent().context("it is in the store")?)?;
        if name == path {
            fs::write(at, bytes)?;
        } else {
            symlink(Path::new(STORE).join(name), at)?;
        }
    }
    Ok(store)
}

/// What the kernel's log says about the last system call that a filter refused (its audit records of type 1326).
fn last_refused_call() -> Option<String> {
    kernel_log().into_iter().rfind(|record| record.contains("type=1326"))
}

/// The kernel's log.
pub fn kernel_log() -> Vec<String> {
    read_kernel_log().unwrap_or_default()
}

fn read_kernel_log() -> Option<Vec<String>> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut log = File::options().read(true).custom_flags(nonblocking).open("/dev/kmsg").ok()?;
    let mut record = [0; 8192];
    let mut records = Vec::new();
    // Each reading is one record (Linux' Documentation/ABI/testing/dev-kmsg).
    while let Ok(length) = log.read(&mut record) {
        records.push(String::from_utf8_lossy(&record[..length]).trim().to_owned());
    }
    Some(records)
}
