//! The patches and the tests of the promises, by their names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Files of the promises' folder with this extension, sorted.
pub(super) fn files(root: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
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

pub(super) fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The promise that a file is about: `p02` of `p02_codes`.
pub(super) fn promise_of(name: &str) -> Option<&str> {
    let promise = name.split('_').next().unwrap_or_default();
    let digits = promise.strip_prefix('p')?;
    (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(promise)
}

/// Promises with a test and without a patch.
pub(super) fn untouched(root: &Path) -> anyhow::Result<Vec<String>> {
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
pub(super) fn changed_lines(patch: &str) -> usize {
    let is_header = |line: &str| line.starts_with("+++") || line.starts_with("---");
    patch.lines().filter(|line| line.starts_with(['+', '-']) && !is_header(line)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
