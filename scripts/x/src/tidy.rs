//! A test that reads the source: what no compiler and no formatter looks at.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

/// Lines of one file, at most. The aim is 150; past this a file holds more than one idea.
const LINES_MAX: usize = 500;

/// Words that must not be in Rust source, each with what to do instead. In two halves, so that this file passes.
const WORDS: [(&str, &str, &str); 6] = [
    ("to", "do!", "write it, or leave the feature out"),
    ("TO", "DO", "open an issue"),
    ("FIX", "ME", "open an issue"),
    ("db", "g!(", "use tracing, or a debugger"),
    ("#[ig", "nore", "assert what happens today instead"),
    ("unimple", "mented!", "write it, or leave the feature out"),
];

/// Beginnings of paths that exist on somebody's machine only, in two halves.
const MACHINE_PATHS: [(&str, &str); 4] =
    [("/Us", "ers/"), ("/work", "/wt"), ("/work", "/main"), ("/work", "/shared")];

/// Homes of people. The guest's own user is no person.
const HOMES: (&str, &str) = ("/ho", "me/");
const GUEST_HOME: &str = "user";

/// Folders at the top whose files pages name.
const FOLDERS: [&str; 7] = ["docs/", "events/", "infra/", "projections/", "scripts/", "services/", "tests/"];

/// Everything untidy in the files that git knows or would add.
pub fn complaints(root: &Path) -> anyhow::Result<Vec<String>> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let listed = crate::output(Command::new("git").args(arguments).current_dir(root))?;
    let mut complaints = Vec::new();
    for name in listed.lines() {
        let path = root.join(name);
        if !path.is_file() {
            // Deleted and not committed yet, or a link.
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        // Pictures, golden bytes and the like.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        complaints.extend(about(name, &text));
        if name.ends_with(".md") {
            let is_there = |path: &str| root.join(path).exists();
            complaints.extend(about_paths(name, &text, is_there));
        }
    }
    Ok(complaints)
}

/// Paths of the repository that a page names between backquotes, and that are not there.
fn about_paths(name: &str, text: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // Every second piece is between backquotes; of a command, its first word is the file.
        let quoted = line.split('`').skip(1).step_by(2);
        let words = quoted.filter_map(|text| text.split_whitespace().next());
        let ours = words.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
        for path in ours.filter(|word| !word.contains(['*', '<', '{']) && !is_there(word)) {
            complaints.push(format!("{name}:{}: {path} is not there", number + 1));
        }
    }
    complaints
}

fn about(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{name}:{}", number + 1);
        for (start, end) in MACHINE_PATHS {
            if line.contains(&format!("{start}{end}")) {
                complaints
                    .push(format!("{at}: a path of one machine; find it from the repository or a setting"));
            }
        }
        let home = format!("{}{}", HOMES.0, HOMES.1);
        if line.split(&home).skip(1).any(|rest| !rest.starts_with(GUEST_HOME)) {
            complaints
                .push(format!("{at}: a path in somebody's home; find it from the repository or a setting"));
        }
    }
    if name.ends_with(".rs") {
        complaints.extend(about_rust(name, text));
    }
    complaints
}

fn about_rust(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complaints.push(format!("{name}: {lines} lines; above {LINES_MAX} it holds more than one idea"));
    }
    if name.ends_with("/mod.rs") {
        complaints.push(format!("{name}: name it for what it is, beside its folder"));
    }
    let is_module = name.contains("/src/") && !name.ends_with("/main.rs");
    if is_module && !text.starts_with("//!") {
        complaints.push(format!("{name}: its first line says what it is for (`//!`)"));
    }
    for (number, line) in text.lines().enumerate() {
        for (start, end, instead) in WORDS {
            if line.contains(&format!("{start}{end}")) {
                complaints.push(format!("{name}:{}: {start}{end}: {instead}", number + 1));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, expected: usize) {
        let complaints = about(name, text);
        assert_eq!(complaints.len(), expected, "{complaints:?}");
    }

    #[test]
    fn a_page_names_only_files_that_are_there() {
        let text = "see `docs/a.md`, `services/b.rs --all` and `docs/c.md`;\nnot `POST /a`, `x/y` or `services/*/src`\n";
        let complaints = about_paths("README.md", text, |path| path == "docs/a.md");
        assert_eq!(
            complaints,
            ["README.md:1: services/b.rs is not there", "README.md:1: docs/c.md is not there"]
        );
    }

    #[test]
    fn each_rule_finds_what_it_forbids_and_nothing_else() {
        check("a/src/b.rs", "//! B.\nfn b() {}\n", 0);
        check("a/src/b.rs", "fn b() {}\n", 1);
        check("a/src/b/mod.rs", "//! B.\n", 1);
        check("a/src/b.rs", &format!("//! B.\n{}", "\n".repeat(LINES_MAX)), 1);
        for (start, end, _) in WORDS {
            check("a/tests/b.rs", &format!("x {start}{end} y"), 1);
            check("a/README.md", &format!("x {start}{end} y"), 0);
        }
        for (start, end) in MACHINE_PATHS {
            check("a/README.md", &format!("see {start}{end}/x"), 1);
        }
        check("a/README.md", &format!("see {}{}somebody/x", HOMES.0, HOMES.1), 1);
        check("a/README.md", &format!("see {}{}user/x", HOMES.0, HOMES.1), 0);
    }
}
