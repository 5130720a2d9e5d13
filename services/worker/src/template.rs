//! What a template consists of, as the template store describes it and events name it.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use omnirun_events::keys::Digest;
use omnirun_vmm_api::TemplateDigests;

/// A template that this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// SHA-256 of its root image.
    pub root: Digest,
    /// SHA-256 of the kernel that it boots.
    pub kernel: Digest,
}

/// A template that cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Its description cannot be read.
    #[error("cannot read {path}: make the template with scripts/guest-image")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its description is not one.
    #[error("{path} does not describe a template: make it again with scripts/guest-image")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Template {
    /// The template of this name in the store below `images`.
    pub fn open(images: &Path, name: &str) -> Result<Self, TemplateError> {
        let path = images.join("templates").join(name).join("template.json");
        let text =
            std::fs::read(&path).map_err(|source| TemplateError::Read { path: path.clone(), source })?;
        let described: Option<TemplateDigests> = serde_json::from_slice(&text).ok();
        let template = described.as_ref().and_then(Self::described).filter(|template| template.name == name);
        template.ok_or(TemplateError::Malformed { path })
    }

    /// The template that a template store or an owner process describes; none where its digests are no digests.
    pub fn described(described: &TemplateDigests) -> Option<Self> {
        let (root, kernel) = (digest(&described.root)?, digest(&described.kernel)?);
        Some(Self { name: described.name.clone(), root, kernel })
    }
}

fn digest(text: &str) -> Option<Digest> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok().map(Digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_the_digests_of_its_description() {
        let store = tempfile::tempdir().expect("a temporary directory");
        let directory = store.path().join("templates/base");
        std::fs::create_dir_all(&directory).expect("writable");
        let text = format!(
            r#"{{"name":"base","kernel":"{}","initramfs":"","root":"{}"}}"#,
            "0a".repeat(32),
            "0b".repeat(32)
        );
        std::fs::write(directory.join("template.json"), text).expect("writable");
        let template = Template::open(store.path(), "base").expect("a good one");
        assert_eq!((template.root, template.kernel), (Digest([0x0b; 32]), Digest([0x0a; 32])));
        assert!(matches!(Template::open(store.path(), "other"), Err(TemplateError::Read { .. })));
    }

    #[test]
    fn a_description_of_another_template_is_refused() {
        let store = tempfile::tempdir().expect("a temporary directory");
        let directory = store.path().join("templates/base");
        std::fs::create_dir_all(&directory).expect("writable");
        std::fs::write(
            directory.join("template.json"),
            r#"{"name":"x","kernel":"","initramfs":"","root":""}"#,
        )
        .expect("writable");
        assert!(matches!(Template::open(store.path(), "base"), Err(TemplateError::Malformed { .. })));
    }
}
