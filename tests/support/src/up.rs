//! `omnirun up` as a process of its own, as a user runs it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::http::Client;

/// How long a start may take: checking the log, joining, answering. Guests are made behind it.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The line that `up` prints when it is healthy begins with this and ends with its address.
pub const READY: &str = "OmniRun is up: http://";

/// A running `omnirun up`. Dropping it kills the process, as `kill -9` would.
pub struct Up {
    child: Child,
    /// `host:port`.
    pub address: String,
    /// Its data directory.
    pub data: PathBuf,
    /// What to start again with.
    arguments: Vec<String>,
}

impl Up {
    /// Starts `omnirun up` on a free port over `data`, with more arguments, and waits until it is healthy. Its templates are those of
    /// [`crate::images`] where the arguments name no others.
    pub async fn start(data: &Path, arguments: &[&str]) -> Result<Self> {
        let mut arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        if !arguments.iter().any(|argument| argument == "--images") {
            arguments.extend(["--images".to_owned(), crate::images().to_string_lossy().into_owned()]);
        }
        Self::spawn(data.to_owned(), arguments).await
    }

    async fn spawn(data: PathBuf, arguments: Vec<String>) -> Result<Self> {
        let mut child = Command::new(crate::binary()?)
            .args(["up", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(open_log(&data)?)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start omnirun")?;
        let mut lines = BufReader::new(child.stdout.take().expect("it was asked for a pipe")).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix(READY) {
                    return Ok(address.trim_end_matches('/').to_owned());
                }
            }
            bail!("omnirun ended before it was healthy: {}", last_lines(&data))
        };
        let address =
            tokio::time::timeout(START_PATIENCE, ready).await.context("omnirun did not become healthy")??;
        // Whatever else it prints is kept with its log lines, so that it never waits for a reader and is searched as they are.
        let mut kept = open_log(&data)?;
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if writeln!(kept, "{line}").is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, address, data, arguments })
    }

    /// A client without a credential.
    pub fn client(&self) -> Client {
        Client::anonymous(&self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Kills the process as `kill -9` does; its guests live on.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill omnirun")
    }

    /// Starts it again over the same data, on another port.
    pub async fn restart(mut self) -> Result<Self> {
        self.kill().await?;
        Self::spawn(self.data.clone(), self.arguments.clone()).await
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("it has no process id")?;
        kill_process(pid, Signal::TERM).context("cannot signal omnirun")?;
        let status =
            tokio::time::timeout(START_PATIENCE, self.child.wait()).await.context("it did not stop")??;
        anyhow::ensure!(status.success(), "omnirun ended with {status}: {}", last_lines(&self.data));
        Ok(())
    }
}

/// Log lines and what was printed of every start over this data, beside the data and not in it: the data is searched for what must not be there.
pub fn log_path(data: &Path) -> PathBuf {
    data.with_extension("log")
}

fn open_log(data: &Path) -> Result<File> {
    let path = log_path(data);
    let file = File::options().create(true).append(true).open(&path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

fn last_lines(data: &Path) -> String {
    let log = std::fs::read_to_string(log_path(data)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(8)..].join(" | ")
}

/// Runs `omnirun ops` over this data; answers its exit code and output.
pub async fn ops(data: &Path, arguments: &[&str]) -> Result<(i32, String)> {
    let output =
        Command::new(crate::binary()?).arg("ops").arg("--data").arg(data).args(arguments).output().await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}
