//! `cargo x sabotage`: for each promise, a patch that breaks the mechanism behind it, and the test that must notice.
//!
//! Patches are `tests/promises/<promise>_<what>.patch`, at most [`CHANGED_LINES_MAX`] changed lines each. They are applied to a second working tree
//! of the last commit under `target/sabotage`, with a build folder of its own: nothing that is broken on purpose is ever where
//! somebody would run it. A patch proves something only if its test passes without it, builds with it, runs, and fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// Changed lines of one patch, at most: it breaks one mechanism.
const CHANGED_LINES_MAX: usize = 10;

/// How long one test may run. A broken mechanism may make it wait for ever, which is as good as a failure.
const TEST_MAX: Duration = Duration::from_secs(900);

/// What came of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The test ran and failed: the promise is watched.
    Red,
    /// It ran until its time was over: noticed as well.
    Hung,
    /// The test passed although its mechanism is broken.
    Green,
    /// No test of that name ran.
    NothingRan,
    /// The test fails without the patch too, so that its failing says nothing.
    RedAnyway,
    /// The broken program does not compile, which is not what a promise's test would notice.
    NoBuild,
    /// The patch does not apply to the last commit.
    DoesNotApply,
    /// The patch changes more than one mechanism's worth of lines, or none.
    WrongSize,
    /// The promise has a test and no patch.
    NoPatch,
}

impl Outcome {
    fn is_proof(self) -> bool {
        matches!(self, Self::Red | Self::Hung)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Red => "red, as it must be",
            Self::Hung => "red: hung until its time was over",
            Self::Green => "GREEN: the test does not watch its mechanism",
            Self::NothingRan => "NOTHING RAN: no test of that name",
            Self::RedAnyway => "RED WITHOUT THE PATCH: mend the test first",
            Self::NoBuild => "NO BUILD: a patch must break behaviour, not types",
            Self::DoesNotApply => "DOES NOT APPLY: write it anew",
            Self::WrongSize => "WRONG SIZE: 1 to 10 changed lines",
            Self::NoPatch => "NO PATCH: nobody has seen this test fail",
        }
    }
}

/// Runs every patch whose name contains `only`, and prints a table.
pub fn run(root: &Path, only: Option<&str>) -> anyhow::Result<ExitCode> {
    let outcomes = outcomes(root, only)?;
    for (name, outcome) in &outcomes {
        println!("{name:<28} {}", outcome.text());
    }
    let proved = outcomes.iter().filter(|(_, outcome)| outcome.is_proof()).count();
    println!("{proved} of {} noticed", outcomes.len());
    Ok(if proved == outcomes.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn outcomes(root: &Path, only: Option<&str>) -> anyhow::Result<Vec<(String, Outcome)>> {
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let mut patches = files(root, "patch")?;
    patches.retain(|path| wanted(&name_of(path)));
    let mut missing = untouched(root)?;
    missing.retain(|promise| wanted(promise));
    let mut outcomes: Vec<_> = missing.into_iter().map(|promise| (promise, Outcome::NoPatch)).collect();
    if patches.is_empty() {
        return Ok(outcomes);
    }
    let tree = Tree::make(root)?;
    // All of these first: restoring a file has cargo build it again.
    let promises: BTreeSet<_> =
        patches.iter().filter_map(|path| promise_of(&name_of(path)).map(str::to_owned)).collect();
    let baseline = tree.baseline(promises)?;
    for patch in &patches {
        eprintln!("== {}", name_of(patch));
        let outcome = tree.sabotage(patch, &baseline);
        tree.restore()?;
        outcomes.push((name_of(patch), outcome?));
    }
    Ok(outcomes)
}

/// Files of the promises' folder with this extension, sorted.
fn files(root: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let folder = root.join("tests/promises");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let mut paths: Vec<_> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The promise that a file is about: `p02` of `p02_codes`.
fn promise_of(name: &str) -> Option<&str> {
    let promise = name.split('_').next().unwrap_or_default();
    let digits = promise.strip_prefix('p')?;
    (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(promise)
}

/// Promises with a test and without a patch.
fn untouched(root: &Path) -> anyhow::Result<Vec<String>> {
    let promises = |extension| -> anyhow::Result<Vec<String>> {
        let names = files(root, extension)?.iter().map(|path| name_of(path)).collect::<Vec<_>>();
        Ok(names.iter().filter_map(|name| promise_of(name).map(str::to_owned)).collect())
    };
    let patched = promises("patch")?;
    let mut missing = promises("rs")?;
    missing.retain(|promise| !patched.contains(promise));
    missing.dedup();
    Ok(missing)
}

/// Lines that a patch adds or takes away.
fn changed_lines(patch: &str) -> usize {
    let is_header = |line: &str| line.starts_with("+++") || line.starts_with("---");
    patch.lines().filter(|line| line.starts_with(['+', '-']) && !is_header(line)).count()
}

/// The second working tree.
struct Tree {
    path: PathBuf,
    build: PathBuf,
}

impl Tree {
    /// The last commit, checked out anew. What is not committed is not in it, which is said.
    fn make(root: &Path) -> anyhow::Result<Self> {
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

    fn sabotage(&self, patch: &Path, baseline: &BTreeMap<String, Outcome>) -> anyhow::Result<Outcome> {
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
    fn baseline(&self, promises: BTreeSet<String>) -> anyhow::Result<BTreeMap<String, Outcome>> {
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

    fn restore(&self) -> anyhow::Result<()> {
        crate::output(git(&self.path).args(["reset", "--quiet", "--hard"]))?;
        crate::output(git(&self.path).args(["clean", "--quiet", "--force", "-d"]))?;
        let left = crate::output(git(&self.path).args(["status", "--porcelain"]))?;
        ensure!(left.is_empty(), "the second working tree cannot be restored: {left}");
        Ok(())
    }
}

/// Copies what cargo has built into a build folder that is not there yet, so that other people's crates are not compiled again. The compiler's
/// own notes on ours stay behind: they are most of the bytes, and of another tree.
fn seed(built: &Path, build: &Path) -> anyhow::Result<()> {
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

/// What the test program's last line and its exit status mean; none when they do not fit together, as after a crash of the program.
fn judge(is_success: bool, printed: &str) -> Option<Outcome> {
    let counts = printed.lines().rev().find(|line| line.starts_with("test result:"));
    let count = |what: &str| -> Option<u64> {
        let (before, _) = counts?.split_once(what)?;
        before.rsplit([' ', '.']).find(|word| !word.is_empty())?.parse().ok()
    };
    match (count(" passed"), count(" failed")) {
        (Some(0), Some(0)) => Some(Outcome::NothingRan),
        (Some(_), Some(0)) if is_success => Some(Outcome::Green),
        (Some(_), Some(failed)) if failed > 0 && !is_success => Some(Outcome::Red),
        _ => None,
    }
}

fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory);
    git
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_ran_and_failed_is_red() {
        let line = |passed, failed| {
            format!("running\ntest result: x. {passed} passed; {failed} failed; 0 ignored; 7 filtered out\n")
        };
        assert_eq!(judge(false, &line(1, 1)), Some(Outcome::Red));
        assert_eq!(judge(true, &line(2, 0)), Some(Outcome::Green));
        assert_eq!(judge(true, &line(0, 0)), Some(Outcome::NothingRan));
        assert_eq!(judge(false, &line(2, 0)), None);
        assert_eq!(judge(false, "error: could not compile"), None);
    }

    #[test]
    fn a_patch_is_counted_by_its_changed_lines() {
        assert_eq!(changed_lines("--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n same\n-old\n+new\n+more\n"), 3);
    }

    #[test]
    fn a_file_is_about_the_promise_that_it_begins_with() {
        assert_eq!(promise_of("p02_codes"), Some("p02"));
        assert_eq!(promise_of("p17"), Some("p17"));
        assert_eq!((promise_of("main"), promise_of("p2_codes"), promise_of("patch")), (None, None, None));
    }

    /// A package whose promise 1 is watched, 2 is not, 3 has no patch, 4 fails as it is.
    fn package() -> tempfile::TempDir {
        let root = tempfile::TempDir::new().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("inside")).expect("it is ours");
            fs::write(path, text).expect("it is ours");
        };
        let patch = |line: &str, instead: &str| {
            format!("--- a/src/lib.rs\n+++ b/src/lib.rs\n@@ -1 +1 @@\n-{line}\n+{instead}\n")
        };
        let line = "pub fn answer() -> u8 { 42 }";
        write(
            "Cargo.toml",
            "[package]\nname = \"kept\"\nedition = \"2024\"\n[[test]]\nname = \"promises\"\npath = \"tests/promises/main.rs\"\n[workspace]\n",
        );
        write(".gitignore", "/target\nCargo.lock\n");
        write("src/lib.rs", &format!("{line}\n"));
        write("tests/promises/main.rs", "mod p01_a;\nmod p02_b;\nmod p03_c;\nmod p04_d;\n");
        write("tests/promises/p01_a.rs", "#[test] fn p01_holds() { assert_eq!(kept::answer(), 42) }\n");
        write("tests/promises/p02_b.rs", "#[test] fn p02_holds() { assert!(kept::answer() > 0) }\n");
        write("tests/promises/p03_c.rs", "");
        write("tests/promises/p04_d.rs", "#[test] fn p04_holds() { panic!() }\n");
        write("tests/promises/p01_a.patch", &patch(line, "pub fn answer() -> u8 { 41 }"));
        write("tests/promises/p01_types.patch", &patch(line, "pub fn answer() -> &'static str { \"\" }"));
        write("tests/promises/p01_stale.patch", &patch("pub fn question() {}", line));
        write("tests/promises/p01_long.patch", &patch(line, &["+x"; 10].join("\n")));
        write("tests/promises/p02_b.patch", &patch(line, "pub fn answer() -> u8 { 1 }"));
        write("tests/promises/p04_d.patch", &patch(line, "pub fn answer() -> u8 { 1 }"));
        write("tests/promises/p05_e.patch", &patch(line, "pub fn answer() -> u8 { 1 }"));
        let identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"];
        for arguments in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "--message", "x"]] {
            crate::output(git(root.path()).args(identity).args(arguments)).expect("git is installed");
        }
        root
    }

    #[test]
    fn each_outcome_is_told_from_the_others_and_nothing_stays_broken() {
        let root = package();
        let found = outcomes(root.path(), None).expect("cargo and git answer");
        let expected = [
            ("p03", Outcome::NoPatch),
            ("p01_a", Outcome::Red),
            ("p01_long", Outcome::WrongSize),
            ("p01_stale", Outcome::DoesNotApply),
            ("p01_types", Outcome::NoBuild),
            ("p02_b", Outcome::Green),
            ("p04_d", Outcome::RedAnyway),
            ("p05_e", Outcome::NothingRan),
        ];
        assert_eq!(found, expected.map(|(name, outcome)| (name.to_owned(), outcome)));
        let kept = fs::read_to_string(root.path().join("src/lib.rs")).expect("it is ours");
        assert!(kept.contains("42"));
        assert!(!root.path().join("target/sabotage/tree").exists());
        assert!(root.path().join("target/sabotage/build").exists());
    }
}
