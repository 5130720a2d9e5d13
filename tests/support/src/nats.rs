//! A nats-server with JetStream: started on a free port, stopped by its pid, killed and started again on the same directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::wait_until;

/// How long a server may take to accept connections; recovering a test's store takes a fraction of it.
const READY: Duration = Duration::from_secs(30);

/// A running server. Dropping it kills the process and removes the directory.
pub struct NatsServer {
    directory: TempDir,
    /// Lines of configuration after the ones that every test server has.
    extra: String,
    /// Known once the first start has chosen it; later starts use it again, so that clients find the way back.
    port: Option<u16>,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a server with an empty store; every acknowledged message is on disk.
    ///
    /// # Panics
    /// If the binary cannot be installed or does not start: a test without its server has nothing to say.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// As [`NatsServer::start`], with more lines of configuration, such as users and their permissions.
    pub fn start_with(extra: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut server = Self { directory, extra: extra.to_owned(), port: None, child: None };
        server.launch();
        server
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port.expect("a started server has a port"))
    }

    /// Where the server keeps its streams.
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Ends the process at once, as a crash does. Twice changes nothing.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A stopped process dies of this signal too.
        child.kill().expect("a child that was not waited for can be killed");
        child.wait().expect("a killed child can be waited for");
    }

    /// Asks the process to end and waits until it has. Twice changes nothing.
    pub fn stop(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.signal(Signal::TERM);
        wait_until(READY, || self.has_exited().then_some(())).expect("a server that is asked to end does");
        self.child = None;
    }

    /// Crashes the server if it runs and starts it again with the same port and store.
    pub fn restart_after_kill(&mut self) {
        self.kill();
        self.launch();
    }

    /// As an operator restarts it: asked to end, and started again with the same port and store.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// Freezes the process: connections stay open and nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        kill_process(Pid::from_child(child), signal).expect("a child that was not waited for has its pid");
    }

    fn launch(&mut self) {
        let config = self.directory.path().join("nats.conf");
        std::fs::write(&config, self.config()).expect("the temporary directory can be written");
        let log = std::fs::File::create(self.directory.path().join("server.log")).expect("as above");
        let child = Command::new(binary())
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the installed server starts");
        let ports = self.directory.path().join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        let port = wait_until(READY, || self.has_exited().then_some(None).or_else(|| port(&ports).map(Some)));
        self.port = port.flatten();
        assert!(self.port.is_some(), "the server did not become ready: {}", self.log());
    }

    fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// What the server wrote since its last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    fn config(&self) -> String {
        let directory = self.directory.path().display();
        let port = self.port.map_or(-1, i32::from);
        let extra = &self.extra;
        format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{directory}\"\n\
             jetstream {{ store_dir: \"{directory}/store\", sync_interval: always }}\n{extra}\n"
        )
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The port in the file that a server writes once it accepts connections: `{"nats":["nats://127.0.0.1:4222"],…}`.
fn port(file: &Path) -> Option<u16> {
    let text = std::fs::read(file).ok()?;
    let ports: serde_json::Value = serde_json::from_slice(&text).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

/// The server's binary, installed when it is missing.
///
/// # Panics
/// With what to run when it cannot be installed.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/nats-server");
        let output = Command::new(&script).stderr(Stdio::inherit()).output();
        let output = output.expect("scripts/nats-server can be run");
        assert!(output.status.success(), "no nats-server: run scripts/nats-server, it says what is missing");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}
