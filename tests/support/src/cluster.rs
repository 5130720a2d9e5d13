//! The roles as separate processes over a real nats-server, each with its own keys only, as on machines of their own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::NatsServer;
use crate::http::Client;
use crate::smtp::SmtpSink;
use crate::up::ops;

/// How long a role may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running role. Dropping it kills the process.
pub struct RoleProcess {
    child: Child,
    log: PathBuf,
    /// What its ready line says after the role.
    pub ready: String,
}

impl RoleProcess {
    /// Asks it to stop and waits until it has, in order.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().context("it has ended before")?;
        let status = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        ensure!(status.success(), "cannot signal the role");
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it did not stop")??;
        ensure!(status.success(), "the role ended with {status}: {}", self.log());
        Ok(())
    }

    /// Everything that it has written to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A server, a mail server, keys for everybody, and a directory for each role.
pub struct Cluster {
    /// The bus and the log.
    pub nats: NatsServer,
    /// Where mail goes.
    pub smtp: SmtpSink,
    directory: TempDir,
}

impl Cluster {
    /// Starts the servers with the repository's nats.conf, makes nkeys, streams and signing keys as an operator does, and gives each role
    /// its own files. Starts no role.
    pub async fn prepare() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        let (exit, text) = ops(&path.join("ops"), &["nkeys", &path.join("nkeys").to_string_lossy()]).await?;
        ensure!(exit == 0, "ops nkeys exits with {exit}: {text}");
        let mut variables: Vec<(String, String)> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        variables.push(("OMNIRUN_NATS_NAME".to_owned(), "test".to_owned()));
        let config = crate::root().join("nats.conf");
        let nats = tokio::task::block_in_place(|| NatsServer::start_file(&config, variables));
        let cluster = Self { nats, smtp: SmtpSink::start().await?, directory };
        for arguments in [&["streams", "apply"][..], &["init"]] {
            let (exit, text) = cluster.ops(arguments).await?;
            ensure!(exit == 0, "ops {arguments:?} exits with {exit}: {text}");
        }
        for (role, files) in [
            ("commands", &["commands.key", "master.key"][..]),
            ("gateway", &["gateway.key", "gateway.secret"]),
            ("worker", &["worker.key", "worker.host"]),
            ("projector", &[]),
        ] {
            cluster.hand_out(role, files)?;
        }
        Ok(cluster)
    }

    /// Copies the pinned root key and these key files to the data directory of `role`.
    fn hand_out(&self, role: &str, files: &[&str]) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let (from, to) = (self.data("ops"), self.data(role));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(to.join("keys"))?;
        std::fs::copy(from.join("root.pub"), to.join("root.pub"))?;
        for file in files {
            // Permissions are copied too.
            std::fs::copy(from.join("keys").join(file), to.join("keys").join(file))?;
        }
        Ok(())
    }

    /// The data directory of a role.
    pub fn data(&self, role: &str) -> PathBuf {
        self.directory.path().join(role)
    }

    fn nkey(&self, role: &str) -> PathBuf {
        self.directory.path().join("nkeys").join(format!("{role}.nk"))
    }

    /// Runs `omnirun ops` on JetStream; answers its exit code and output.
    pub async fn ops(&self, arguments: &[&str]) -> Result<(i32, String)> {
        self.ops_beside("ops", arguments).await
    }

    /// As [`Cluster::ops`], with the data directory of `role`, whose running process is asked about its read models.
    pub async fn ops_beside(&self, role: &str, arguments: &[&str]) -> Result<(i32, String)> {
        let (url, nkey) = (self.nats.url(), self.nkey("ops"));
        let nkey = nkey.to_string_lossy();
        let bus = ["--nats", url.as_str(), "--nkey", nkey.as_ref()];
        ops(&self.data(role), &[&bus[..], arguments].concat()).await
    }

    /// Starts a role and waits until it says that it is ready.
    pub async fn start(&self, role: &str) -> Result<RoleProcess> {
        self.start_with(role, &[]).await
    }

    /// As [`Cluster::start`], with more arguments.
    pub async fn start_with(&self, role: &str, arguments: &[&str]) -> Result<RoleProcess> {
        self.start_in(role, role, arguments).await
    }

    /// Starts one more process of a role, beside those that run, with copies of its keys in a directory of its own.
    pub async fn start_another(&self, role: &str) -> Result<RoleProcess> {
        let name = format!("{role}-too");
        let files: Vec<String> = std::fs::read_dir(self.data(role).join("keys"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        self.hand_out(&name, &files.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.start_in(role, &name, &[]).await
    }

    async fn start_in(&self, role: &str, data: &str, arguments: &[&str]) -> Result<RoleProcess> {
        let mut command = Command::new(crate::binary()?);
        command.arg(role).arg("--nats").arg(self.nats.url()).arg("--nkey").arg(self.nkey(role));
        if role == "mailer" {
            command.arg("--smtp").arg(format!("smtp://127.0.0.1:{}", self.smtp.port));
        } else {
            command.arg("--data").arg(self.data(data));
        }
        match role {
            "gateway" => drop(command.args(["--listen", "127.0.0.1:0"])),
            "worker" => drop(command.args(["--pool", "0", "--images"]).arg(crate::images())),
            _ => {}
        }
        command.args(arguments);
        self.spawn(role, command).await
    }

    async fn spawn(&self, role: &str, mut command: Command) -> Result<RoleProcess> {
        let log = self.directory.path().join(format!("{role}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start omnirun {role}"))?;
        let mut lines = BufReader::new(child.stdout.take().expect("it was asked for a pipe")).lines();
        let expected = format!("omnirun {role} is ready");
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(rest) = line.strip_prefix(&expected) {
                    return Ok(rest.trim_start_matches(": ").to_owned());
                }
            }
            bail!("omnirun {role} ended: {}", std::fs::read_to_string(&log).unwrap_or_default())
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await.with_context(|| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            format!("omnirun {role} did not become ready: {log}")
        })??;
        Ok(RoleProcess { child, log, ready })
    }
}

/// A client of a started gateway.
pub fn client_of(gateway: &RoleProcess) -> Client {
    Client::anonymous(gateway.ready.trim_start_matches("http://"))
}

/// The pinned root key of a data directory, as `ops verify --root-key` takes it.
pub fn root_key(data: &Path) -> String {
    data.join("root.pub").to_string_lossy().into_owned()
}
