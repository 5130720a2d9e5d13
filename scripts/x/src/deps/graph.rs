//! What `cargo metadata` knows: our crates, what each names directly, and what each reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::Deserialize;

/// Whether an edge ships or is for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Normal,
    Tests,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "",
            Self::Tests => " (tests)",
        })
    }
}

/// A direct dependency.
pub struct Edge {
    pub to: String,
    pub kind: Kind,
}

pub struct Graph {
    direct: BTreeMap<String, Vec<Edge>>,
    /// Package ids to the ids that they ship.
    shipped: BTreeMap<String, Vec<String>>,
    names: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_members: Vec<String>,
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// Where the program runs.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

impl Graph {
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // Of this platform alone: a machine that has only built has not fetched what others need.
        let arguments = ["metadata", "--format-version", "1", "--offline", "--filter-platform", PLATFORM];
        Self::parse(&crate::output(Command::new(cargo).args(arguments).current_dir(root))?)
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let metadata: Metadata = serde_json::from_str(text).context("cargo metadata prints another form")?;
        let names =
            metadata.packages.iter().map(|package| (package.id.clone(), package.name.clone())).collect();
        let members = metadata.packages.iter().filter(|p| metadata.workspace_members.contains(&p.id));
        let direct = members.map(|package| (package.name.clone(), edges(package))).collect();
        let shipped = metadata.resolve.nodes.into_iter().map(|node| {
            let ships =
                |dep: &NodeDependency| dep.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"));
            let shipped = node.deps.into_iter().filter(ships).map(|dep| dep.pkg).collect();
            (node.id, shipped)
        });
        Ok(Self { direct, shipped: shipped.collect(), names })
    }

    pub fn ours(&self) -> impl Iterator<Item = &String> {
        self.direct.keys()
    }

    pub fn is_ours(&self, name: &str) -> bool {
        self.direct.contains_key(name)
    }

    pub fn direct(&self, name: &str) -> Option<&[Edge]> {
        self.direct.get(name).map(Vec::as_slice)
    }

    /// Others' crates that ours name, each with its users; a user that ships it and tests with it ships it.
    pub fn third_parties(&self) -> BTreeMap<String, BTreeMap<String, Kind>> {
        let mut used: BTreeMap<String, BTreeMap<String, Kind>> = BTreeMap::new();
        for (user, edges) in &self.direct {
            for edge in edges.iter().filter(|edge| !self.is_ours(&edge.to)) {
                let kind = used.entry(edge.to.clone()).or_default().entry(user.clone()).or_insert(edge.kind);
                *kind = (*kind).min(edge.kind);
            }
        }
        used
    }

    /// Names of everything that ships with a crate, itself included; empty for one that is not there.
    pub fn reached_from(&self, name: &str) -> BTreeSet<String> {
        let is_start = |(_, found): &(&String, &String)| *found == name;
        let mut todo: Vec<&String> = self.names.iter().filter(is_start).map(|(id, _)| id).collect();
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                todo.extend(self.shipped.get(id).into_iter().flatten());
            }
        }
        seen.into_iter().filter_map(|id| self.names.get(id).cloned()).collect()
    }
}

fn edges(package: &Package) -> Vec<Edge> {
    let kind = |dependency: &Dependency| match dependency.kind.as_deref() {
        Some("dev") => Kind::Tests,
        _ => Kind::Normal,
    };
    package.dependencies.iter().map(|dep| Edge { to: dep.name.clone(), kind: kind(dep) }).collect()
}
