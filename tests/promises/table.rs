//! The table of promises: tested here, or not yet.

use std::collections::BTreeSet;

use omnirun_test_support::{report, root};

/// Every promise, what keeps it in a few words, and whether a test in this suite would fail without it.
const PROMISES: [(&str, &str, Standing); 17] = [
    ("p01", "sign-up collects the address and nothing else", Standing::Tested),
    ("p02", "a one-time code by mail, and no password", Standing::Tested),
    ("p03", "usage is tracked to enforce limits and to bill", Standing::Tested),
    ("p04", "tokens are stored as verifiers and shown once", Standing::Tested),
    ("p05", "staff cannot read the vault", Standing::NotYet("the vault")),
    ("p06", "analytics without personal data", Standing::NotYet("pages that could be counted")),
    ("p07", "one cookie and no other", Standing::Tested),
    ("p08", "a microVM with its own kernel, isolated", Standing::Tested),
    ("p09", "nothing is left of a destroyed sandbox", Standing::Tested),
    ("p10", "code is not logged, stored or inspected", Standing::Tested),
    ("p11", "results are cached in memory only", Standing::NotYet("one-shot runs")),
    ("p12", "third parties are listed", Standing::NotYet("the privacy page")),
    ("p13", "no connection but the configured ones", Standing::NotYet("a capture of a full run")),
    ("p14", "usage logs are kept at most 90 days", Standing::Tested),
    ("p15", "accounts can be deleted", Standing::Tested),
    ("p16", "access, correction, export", Standing::Tested),
    ("p17", "requests by mail", Standing::Tested),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Tested,
    /// What is missing before it can be.
    NotYet(&'static str),
}

/// Names `pNN` of the files of this suite with this ending.
fn files(ending: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join("tests/promises")).expect("the suite is in its folder");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let ours = names.filter(|name| name.starts_with('p') && name.ends_with(ending));
    ours.map(|name| name.chars().take(3).collect()).collect()
}

#[test]
fn every_tested_promise_has_its_file_and_its_sabotage_and_no_other_has() {
    let of = |wanted: bool| PROMISES.iter().filter(move |(_, _, s)| (*s == Standing::Tested) == wanted);
    let tested: BTreeSet<String> = of(true).map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(files(".rs"), tested);
    assert_eq!(files(".patch"), tested);
    for (name, promise, standing) in PROMISES {
        match standing {
            Standing::Tested => report(&format!("{name} tested    {promise}")),
            Standing::NotYet(missing) => report(&format!("{name} not yet   {promise}: needs {missing}")),
        }
    }
    report(&format!("{} of {} promises are tested", tested.len(), PROMISES.len()));
}
