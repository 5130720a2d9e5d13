//! An export of an account, unpacked.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};

use anyhow::{Context as _, Result};
use serde_json::Value;
use zip::ZipArchive;

/// The files of an archive.
pub struct Unpacked(pub BTreeMap<String, Vec<u8>>);

impl Unpacked {
    /// The files in these bytes of a ZIP.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        let mut archive = ZipArchive::new(Cursor::new(bytes)).context("it is no archive")?;
        let mut files = BTreeMap::new();
        for n in 0..archive.len() {
            let mut file = archive.by_index(n)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            files.insert(file.name()?.into_owned(), bytes);
        }
        Ok(Self(files))
    }

    /// A file that is one JSON value.
    pub fn json(&self, name: &str) -> Result<Value> {
        let bytes = self.0.get(name).with_context(|| format!("{name} is missing"))?;
        serde_json::from_slice(bytes).with_context(|| format!("{name} is no JSON"))
    }

    /// A file of one JSON value in each line.
    pub fn lines(&self, name: &str) -> Result<Vec<Value>> {
        let bytes = self.0.get(name).with_context(|| format!("{name} is missing"))?;
        let lines = String::from_utf8_lossy(bytes);
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
