//! The tables of `docs/dependencies.md`, found by their headings. A cell lists names in backquotes; ` (tests)` after one means for tests only.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};

use super::graph::Kind;

/// Who may name a crate of others.
pub enum Users {
    /// Every crate of ours.
    Any,
    /// Tests of any crate.
    Tests,
    /// Exactly these, apart from tests.
    Only(BTreeSet<String>),
}

pub struct Tables {
    pub ours: BTreeMap<String, BTreeSet<(String, Kind)>>,
    pub third_parties: BTreeMap<String, Users>,
    pub never: BTreeMap<String, BTreeSet<String>>,
}

impl Tables {
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut tables =
            Self { ours: BTreeMap::new(), third_parties: BTreeMap::new(), never: BTreeMap::new() };
        for cells in rows(text, "## Our crates")? {
            let [name, imports, ..] = &cells[..] else {
                bail!("a row of our crates needs two cells: {cells:?}")
            };
            tables.ours.insert(only_name(name)?, edges(imports)?);
        }
        for cells in rows(text, "## Others' crates")? {
            let [name, users, why] = &cells[..] else {
                bail!("a row of others' crates needs three cells: {cells:?}")
            };
            ensure!(why.ends_with('.') && why.len() > 3, "{name}: say in a sentence why it is here");
            let users = match users.as_str() {
                "any" => Users::Any,
                "tests" => Users::Tests,
                _ => Users::Only(edges(users)?.into_iter().map(|(name, _)| name).collect()),
            };
            tables.third_parties.insert(only_name(name)?, users);
        }
        for cells in rows(text, "## Never")? {
            let [name, banned, ..] = &cells[..] else { bail!("a row of bans needs two cells: {cells:?}") };
            let banned = edges(banned)?.into_iter().map(|(name, _)| name).collect();
            tables.never.insert(only_name(name)?, banned);
        }
        Ok(tables)
    }
}

/// The cells of each row of the one table under a heading, without its head.
fn rows(text: &str, heading: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let mut lines = text.lines().skip_while(|line| *line != heading);
    lines.next().with_context(|| format!("docs/dependencies.md has no heading {heading:?}"))?;
    let section = lines.take_while(|line| !line.starts_with("## "));
    let table = section.filter(|line| line.starts_with('|')).skip(2);
    Ok(table
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect())
}

fn only_name(cell: &str) -> anyhow::Result<String> {
    let names = edges(cell)?;
    match names.first() {
        Some((name, Kind::Normal)) if names.len() == 1 => Ok(name.clone()),
        _ => bail!("{cell:?} is not one name in backquotes"),
    }
}

fn edges(cell: &str) -> anyhow::Result<BTreeSet<(String, Kind)>> {
    if cell == "none" {
        return Ok(BTreeSet::new());
    }
    cell.split(", ").map(edge).collect()
}

fn edge(text: &str) -> anyhow::Result<(String, Kind)> {
    let (name, kind) = match text.strip_suffix(" (tests)") {
        Some(name) => (name, Kind::Tests),
        None => (text, Kind::Normal),
    };
    let name = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
    let name = name.with_context(|| format!("{text:?} is not a name in backquotes"))?;
    Ok((name.to_owned(), kind))
}
