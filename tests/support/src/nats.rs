//! A nats-server with JetStream: started on a free port, stopped by its pid, killed and started again on the same directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use crate::wait_until;

/// How long a server may take to accept connections; recovering a test's store takes a fraction of it.
const READY: Duration = Duration::from_secs(30);

/// What a server is started with.
enum Setup {
    /// The configuration of a test, and more lines of it.
    Minimal(String),
    /// A file as it is, and the variables that it asks for.
    File(PathBuf, Vec<(String, String)>),
}

/// A running server. Dropping it kills the process and removes the directory.
pub struct NatsServer {
    directory: TempDir,
    setup: Setup,
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
        Self::start_setup(Setup::Minimal(extra.to_owned()))
    }

    /// Starts a server with a configuration file as it is. The file takes its address from `OMNIRUN_NATS_LISTEN` and its store
    /// from `OMNIRUN_NATS_STORE`, which are set here; other variables are the caller's.
    pub fn start_file(config: &Path, variables: Vec<(String, String)>) -> Self {
        Self::start_setup(Setup::File(config.to_owned(), variables))
    }

    fn start_setup(setup: Setup) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut server = Self { directory, setup, port: None, child: None };
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

    /// Freezes the process: connections stay open and nobody answers. When it returns, every thread has stopped; the signal alone
    /// would leave them a moment to answer in.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        waitid(WaitId::Pid(self.pid()), WaitIdOptions::STOPPED).expect("a child can be waited for");
    }

    /// Lets a frozen process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a child that was not waited for has its pid");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the server runs"))
    }

    fn launch(&mut self) {
        let directory = self.directory.path();
        let log = std::fs::File::create(directory.join("server.log")).expect("the directory can be written");
        let mut command = Command::new(binary());
        match &self.setup {
            Setup::Minimal(extra) => {
                let config = directory.join("nats.conf");
                std::fs::write(&config, self.minimal(extra)).expect("the directory can be written");
                command.arg("--config").arg(config);
            }
            Setup::File(path, variables) => {
                command.arg("--config").arg(path).envs(variables.iter().cloned());
                command.env("OMNIRUN_NATS_LISTEN", self.address()).env("OMNIRUN_NATS_STORE", self.store());
            }
        }
        command.arg("--ports_file_dir").arg(directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the installed server starts");
        let ports = directory.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        let port = wait_until(READY, || self.has_exited().then_some(None).or_else(|| port(&ports).map(Some)));
        assert!(port.flatten().is_some(), "the server did not become ready: {}", self.log());
        self.port = port.flatten();
    }

    /// Where the server listens: on a port that it chooses, and later on the same.
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.map_or(-1, i32::from))
    }

    fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// What the server wrote since its last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    fn minimal(&self, extra: &str) -> String {
        let (address, store) = (self.address(), self.store());
        let store = store.display();
        format!(
            "listen: \"{address}\"\njetstream {{ store_dir: \"{store}\", sync_interval: always }}\n{extra}\n"
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
