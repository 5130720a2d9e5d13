//! The second working tree, where patches are applied and tests are run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::CHANGED_LINES_MAX;
use super::outcome::{Outcome, judge};
use super::patches::{changed_lines, name_of, promise_of};

/// How long one test may run. A broken mechanism may make it wait for ever, which is as good as a failure.
const TEST_MAX: Duration = Duration::from_secs(900);

/// The second working tree.
pub(super) struct Tree {
    path: PathBuf,
    build: PathBuf,
}

impl Tree {
    /// The last commit, checked out anew. What is not committed is not in it, which is said.
    pub(super) fn make(root: &Path) -> anyhow::Result<Self> {
        let root = root.canonicalize().context("cannot find the repository")?;
        let changed = crate::output(git(&root).args(["status", "--porcelain"]))?;
        if !changed.is_empty() {
            eprintln!("there are changes that are not committed; the last commit is tested, without them");
        }
        let target = root.join("target/sabotage");
        let (path, build) = (target.join("tree"), target.join("build"));
        if path.exists() {
            drop(crate::output(git(&root).args(["worktree", "remove", "--force"]).arg(&path)));
        }
        crate::output(git(&root).args(["worktree", "prune"]))?;
        fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
        crate::output(git(&root).args(["worktree", "add", "--force", "--detach"]).arg(&path).arg("HEAD"))?;
        // Images and servers that tests need are made once, under `target`; only what cargo builds is kept apart.
        for made in ["target", ".data"] {
            std::os::unix::fs::symlink(root.join(made), path.join(made))
                .with_context(|| format!("cannot link {made}"))?;
        }
        seed(&root.join("target/release"), &build)?;
        Ok(Self { path, build })
    }

    pub(super) fn sabotage(
        &self,
        patch: &Path,
        baseline: &BTreeMap<String, Outcome>,
    ) -> anyhow::Result<Outcome> {
        let name = name_of(patch);
        let Some(promise) = promise_of(&name) else {
            bail!("{name}.patch does not begin with its promise, such as p02_");
        };
        let text = fs::read_to_string(patch).with_context(|| format!("cannot read {name}.patch"))?;
        if !(1..=CHANGED_LINES_MAX).contains(&changed_lines(&text)) {
            return Ok(Outcome::WrongSize);
        }
        let patch = patch.canonicalize().context("cannot find the patch")?;
        if crate::output(git(&self.path).args(["apply", "--check"]).arg(&patch)).is_err() {
            return Ok(Outcome::DoesNotApply);
        }
        match baseline.get(promise) {
            Some(Outcome::Green) => {}
            Some(Outcome::NothingRan) => return Ok(Outcome::NothingRan),
            Some(Outcome::NoBuild) => {
                bail!("the last commit does not build; nothing can be said about {name}")
            }
            _ => return Ok(Outcome::RedAnyway),
        }
        crate::output(git(&self.path).arg("apply").arg(&patch))?;
        self.test(promise)
    }

    /// What the tests of these promises say without a patch. All of them are run at once, which takes as long as the longest; only where
    /// one fails is each promise run alone.
    pub(super) fn baseline(&self, promises: BTreeSet<String>) -> anyhow::Result<BTreeMap<String, Outcome>> {
        let (all, printed) = match promises.len() {
            0 | 1 => (Outcome::NothingRan, String::new()),
            _ => self.run("")?,
        };
        let ran = |promise: &str| printed.lines().any(|line| line.starts_with(&format!("test {promise}")));
        let one = |promise: String| {
            let outcome = match all {
                Outcome::Green if ran(&promise) => Outcome::Green,
                Outcome::Green => Outcome::NothingRan,
                _ => self.test(&promise)?,
            };
            Ok((promise, outcome))
        };
        promises.into_iter().map(one).collect()
    }

    /// Builds, then runs the tests of a promise.
    fn test(&self, promise: &str) -> anyhow::Result<Outcome> {
        self.run(promise).map(|(outcome, _)| outcome)
    }

    /// Builds, then runs the tests whose names hold `name`; what came of it, and what they printed.
    fn run(&self, name: &str) -> anyhow::Result<(Outcome, String)> {
        let built = self.cargo(&["--no-run"]).status().context("cannot run cargo")?;
        if !built.success() {
            return Ok((Outcome::NoBuild, String::new()));
        }
        let printed = self.path.with_file_name("printed");
        let file =
            fs::File::create(&printed).with_context(|| format!("cannot write {}", printed.display()))?;
        let mut tests = self.cargo(&[name]).stdout(file).spawn().context("cannot run cargo")?;
        let began = Instant::now();
        let status = loop {
            match tests.try_wait().context("cannot wait for cargo")? {
                Some(status) => break status,
                None if began.elapsed() > TEST_MAX => {
                    // Its own group, so that servers and guests of the test end with it.
                    drop(Command::new("kill").args(["-KILL", "--", &format!("-{}", tests.id())]).status());
                    tests.wait().context("cannot wait for cargo")?;
                    return Ok((Outcome::Hung, String::new()));
                }
                None => sleep(Duration::from_millis(200)),
            }
        };
        let text = fs::read_to_string(&printed).context("the tests do not print text")?;
        let outcome = judge(status.success(), &text);
        if outcome != Some(Outcome::Green) {
            eprintln!("{text}");
        }
        let outcome =
            outcome.with_context(|| format!("the tests of {name} ended without a result; see above"))?;
        Ok((outcome, text))
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // Of the whole workspace, whose crates are built with the features that the seed was: of one package alone, cargo would compile other
        // people's crates once more with fewer.
        cargo.args(["test", "--release", "--workspace", "--test", "promises"]).args(arguments);
        cargo.current_dir(&self.path).env("CARGO_TARGET_DIR", &self.build);
        cargo.stdin(Stdio::null()).process_group(0);
        cargo
    }

    pub(super) fn restore(&self) -> anyhow::Result<()> {
        crate::output(git(&self.path).args(["reset", "--quiet", "--hard"]))?;
        crate::output(git(&self.path).args(["clean", "--quiet", "--force", "-d"]))?;
        let left = crate::output(git(&self.path).args(["status", "--porcelain"]))?;
        ensure!(left.is_empty(), "the second working tree cannot be restored: {left}");
        Ok(())
    }
}

/// Copies what cargo has built into a build folder that is not there yet, so that other people's crates are not compiled again. The compiler's
/// own notes on ours stay behind: they are most of the bytes, and of another tree.
pub(super) fn seed(built: &Path, build: &Path) -> anyhow::Result<()> {
    if !built.exists() || build.exists() {
        return Ok(());
    }
    let profile = build.join("release");
    fs::create_dir_all(&profile).with_context(|| format!("cannot make {}", profile.display()))?;
    let parts = [".fingerprint", "build", "deps"].map(|part| built.join(part));
    crate::output(Command::new("cp").args(["--archive", "--reflink=auto"]).args(parts).arg(profile)).map(drop)
}

impl Drop for Tree {
    fn drop(&mut self) {
        // A tree that stays is removed by the next run.
        drop(crate::output(git(&self.path).args(["worktree", "remove", "--force"]).arg(&self.path)));
    }
}

pub(super) fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory);
    git
}
