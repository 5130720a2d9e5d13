//! `cargo x sabotage`: for each promise, a patch that breaks the mechanism behind it, and the test that must notice.
//!
//! Patches are `tests/promises/<promise>_<what>.patch`, at most [`CHANGED_LINES_MAX`] changed lines each. They are applied to a second working tree
//! of the last commit under `target/sabotage`, with a build folder of its own: nothing that is broken on purpose is ever where
//! somebody would run it. A patch proves something only if its test passes without it, builds with it, runs, and fails.

mod outcome;
mod patches;
mod tree;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use self::outcome::Outcome;
use self::patches::{files, name_of, promise_of, untouched};
use self::tree::Tree;

/// Changed lines of one patch, at most: it breaks one mechanism.
const CHANGED_LINES_MAX: usize = 10;

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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::tree::git;
    use super::*;

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
