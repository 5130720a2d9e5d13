//! Who depends on whom: `cargo metadata` beside the tables of `docs/dependencies.md`. An edge that the table lacks fails, and so does one
//! that nobody uses any more.

mod graph;
mod table;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;

use graph::{Graph, Kind};
use table::{Tables, Users};

/// Everything in which the crates and the tables differ.
pub fn complaints(root: &Path) -> anyhow::Result<Vec<String>> {
    let graph = Graph::read(root)?;
    let path = root.join("docs/dependencies.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let tables = Tables::parse(&text)?;
    Ok([ours(&graph, &tables), third_parties(&graph, &tables), never(&graph, &tables)].concat())
}

/// Edges between our crates, with tests counted apart.
fn ours(graph: &Graph, tables: &Tables) -> Vec<String> {
    let mut complaints = Vec::new();
    for name in graph.ours().filter(|name| !tables.ours.contains_key(*name)) {
        complaints.push(format!("{name}: has no row in the table of our crates"));
    }
    for (name, row) in &tables.ours {
        let Some(found) = graph.direct(name) else {
            complaints.push(format!("{name}: has a row in the table of our crates and does not exist"));
            continue;
        };
        let own: BTreeSet<_> = found
            .iter()
            .filter(|edge| graph.is_ours(&edge.to))
            .map(|edge| (edge.to.clone(), edge.kind))
            .collect();
        for (to, kind) in own.difference(row) {
            complaints.push(format!("{name}: imports {to}{kind}, which the table does not allow"));
        }
        for (to, kind) in row.difference(&own) {
            complaints.push(format!("{name}: the table says that it imports {to}{kind}, and it does not"));
        }
    }
    complaints
}

/// Direct dependencies on crates of others: each has a reason, and those that are owned are used by their owners alone.
fn third_parties(graph: &Graph, tables: &Tables) -> Vec<String> {
    let mut complaints = Vec::new();
    let used = graph.third_parties();
    for (name, users) in &used {
        let Some(allowed) = tables.third_parties.get(name) else {
            complaints.push(format!(
                "{name}: is used by {} and has no row in the table of others' crates",
                list(users.keys())
            ));
            continue;
        };
        let normal: BTreeSet<String> =
            users.iter().filter(|(_, kind)| **kind == Kind::Normal).map(|(user, _)| user.clone()).collect();
        match allowed {
            Users::Any => {}
            Users::Tests if normal.is_empty() => {}
            Users::Tests => complaints.push(format!("{name}: is for tests, and {} ships it", list(&normal))),
            Users::Only(owners) => {
                for user in normal.difference(owners) {
                    complaints.push(format!("{name}: {user} uses it, and only {} may", list(owners)));
                }
                for owner in owners.difference(&normal) {
                    complaints.push(format!("{name}: the table says that {owner} uses it, and it does not"));
                }
            }
        }
    }
    for name in tables.third_parties.keys().filter(|name| !used.contains_key(*name)) {
        complaints.push(format!("{name}: has a row in the table of others' crates and nobody uses it"));
    }
    complaints
}

/// Crates that must not be reached by any path but tests.
fn never(graph: &Graph, tables: &Tables) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, banned) in &tables.never {
        let reached = graph.reached_from(name);
        if reached.is_empty() {
            complaints.push(format!("{name}: has bans and does not exist"));
        }
        for ban in banned {
            for found in reached.iter().filter(|reached| matches(ban, reached)) {
                complaints.push(format!("{name}: reaches {found}, which it never may"));
            }
        }
    }
    complaints
}

/// A ban is a name, or the beginning of one and a star.
fn matches(ban: &str, name: &str) -> bool {
    match ban.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == ban,
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace of `a`, which ships `b` and `tokio`, and `b`, which tests with `c`.
    const METADATA: &str = r#"{
        "workspace_members": ["a", "b"],
        "packages": [
            {"id": "a", "name": "a", "dependencies": [{"name": "b", "kind": null}, {"name": "tokio", "kind": null}]},
            {"id": "b", "name": "b", "dependencies": [{"name": "c", "kind": "dev"}]},
            {"id": "tokio", "name": "tokio", "dependencies": []},
            {"id": "c", "name": "c", "dependencies": []}
        ],
        "resolve": {"nodes": [
            {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": null}]}, {"pkg": "tokio", "dep_kinds": [{"kind": null}]}]},
            {"id": "b", "deps": [{"pkg": "c", "dep_kinds": [{"kind": "dev"}]}]},
            {"id": "tokio", "deps": []},
            {"id": "c", "deps": []}
        ]}
    }"#;

    fn complaints_about(ours: &str, others: &str, bans: &str) -> Vec<String> {
        let graph = Graph::parse(METADATA).expect("well formed");
        let text = format!(
            "## Our crates\n\n| crate | imports |\n|---|---|\n{ours}\n## Others' crates\n\n| crate | users | why |\n|---|---|---|\n{others}\n## Never\n\n| crate | never |\n|---|---|\n{bans}\n"
        );
        let tables = Tables::parse(&text).expect("well formed");
        [super::ours(&graph, &tables), third_parties(&graph, &tables), never(&graph, &tables)].concat()
    }

    const OURS: &str = "| `a` | `b` |\n| `b` | none |\n";
    const OTHERS: &str = "| `tokio` | `a` | It runs. |\n| `c` | tests | It checks. |\n";

    #[test]
    fn a_table_that_says_what_is_has_no_complaints() {
        assert_eq!(complaints_about(OURS, OTHERS, "| `b` | `tokio` |\n"), Vec::<String>::new());
    }

    #[test]
    fn an_extra_and_a_stale_edge_both_fail() {
        let cases = [
            ("| `a` | none |\n| `b` | none |\n", OTHERS, "", "imports b, which"),
            ("| `a` | `b` |\n| `b` | `a` |\n", OTHERS, "", "b: the table says that it imports a"),
            ("| `a` | `b` |\n", OTHERS, "", "b: has no row"),
            ("| `a` | `b` |\n| `b` | none |\n| `d` | none |\n", OTHERS, "", "d: has a row"),
            (OURS, "| `tokio` | any | It runs. |\n", "", "c: is used by b and has no row"),
            (OURS, "| `tokio` | `b` | It runs. |\n| `c` | tests | It checks. |\n", "", "only b may"),
            (OURS, "| `tokio` | tests | It runs. |\n| `c` | tests | It checks. |\n", "", "a ships it"),
            (
                OURS,
                "| `tokio` | any | It runs. |\n| `c` | tests | It checks. |\n| `e` | any | It is. |\n",
                "",
                "nobody uses it",
            ),
            (OURS, OTHERS, "| `a` | `tok*` |\n", "a: reaches tokio"),
        ];
        for (ours, others, bans, expected) in cases {
            let complaints = complaints_about(ours, others, bans);
            assert!(complaints.iter().any(|text| text.contains(expected)), "{expected}: {complaints:?}");
        }
    }
}
