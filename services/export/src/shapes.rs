//! The files of an export that are no records. Their JSON Schemas are made of these types and go with them.

use omnirun_events::id::{SandboxId, TokenId};
use omnirun_events::token::TokenKind;
use omnirun_events::unit::Timestamp;
use omnirun_projections::sandboxes::Sandbox;
use omnirun_projections::tokens::Token;
use omnirun_projections::usage::SandboxUsage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The account.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExportedAccount {
    pub id: String,
    /// Where codes are sent; null if its key is destroyed.
    pub email: Option<String>,
    pub plan: String,
    pub created_at: String,
}

/// A credential: an API token, a session of a browser (`session`) or a signed-in command line (`cli`). Its text was shown once and is not held.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExportedToken {
    pub id: String,
    #[schema(value_type = String)]
    pub kind: TokenKind,
    pub name: Option<String>,
    #[schema(value_type = Vec<String>)]
    pub scopes: Value,
    /// Its last six characters.
    pub hint: String,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub revoked_at: Option<String>,
}

impl ExportedToken {
    pub(crate) fn of(id: TokenId, token: &Token, name: Option<String>) -> Self {
        Self {
            id: id.to_string(),
            kind: token.kind,
            name,
            scopes: json!(token.scopes),
            hint: token.hint.clone(),
            created_at: token.created_at.rfc3339(),
            expires_at: token.expires_at.map(Timestamp::rfc3339),
            revoked_at: token.revoked.map(|(at, _)| at.rfc3339()),
        }
    }
}

/// A sandbox.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExportedSandbox {
    #[serde(rename = "sandboxID")]
    pub id: String,
    #[serde(rename = "templateID")]
    pub template: String,
    pub state: String,
    pub cpu_count: u8,
    #[serde(rename = "memoryMB")]
    pub memory_mb: u32,
    /// What its owner said of it, as it was sent; null if there was nothing or its key is destroyed.
    pub metadata: Option<String>,
    pub requested_at: String,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    /// The host that ran it.
    pub host: Option<String>,
}

impl ExportedSandbox {
    pub(crate) fn of(id: SandboxId, sandbox: &Sandbox, metadata: Option<String>) -> Self {
        Self {
            id: id.to_string(),
            template: sandbox.template.clone(),
            state: sandbox.state.as_str().to_owned(),
            cpu_count: sandbox.shape.vcpus.0,
            memory_mb: sandbox.shape.memory.0,
            metadata,
            requested_at: sandbox.requested_at.rfc3339(),
            started_at: sandbox.started_at.map(Timestamp::rfc3339),
            ended_at: sandbox.ended_at.map(Timestamp::rfc3339),
            host: sandbox.host.map(|host| host.to_string()),
        }
    }
}

/// What a sandbox used, by its last reading.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExportedUsage {
    #[serde(rename = "sandboxID")]
    pub id: String,
    pub observed_at: Option<String>,
    /// Milliseconds that it ran.
    pub wall_ms: u64,
    /// Milliseconds of processor time.
    pub vcpu_ms: u64,
    /// MiB times seconds.
    pub memory_mib_seconds: u64,
    /// Bytes from the network.
    pub received_bytes: u64,
    /// Bytes to the network.
    pub sent_bytes: u64,
}

impl ExportedUsage {
    pub(crate) fn of(id: SandboxId, usage: &SandboxUsage) -> Self {
        Self {
            id: id.to_string(),
            observed_at: usage.observed_at.map(Timestamp::rfc3339),
            wall_ms: usage.meter.wall.0,
            vcpu_ms: usage.meter.vcpu.0,
            memory_mib_seconds: usage.meter.memory.0,
            received_bytes: usage.meter.received.0,
            sent_bytes: usage.meter.sent.0,
        }
    }
}

/// A line of `events.jsonl`, `keys.jsonl` or `erasures.jsonl`: one record. `record` is what counts and what the signature covers; everything else
/// is there to be read.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExportedRecord {
    pub log: String,
    pub position: u64,
    pub subject: String,
    pub at: String,
    /// The signed head: who, which number, what follows what.
    #[schema(value_type = Object)]
    pub header: Value,
    /// What happened, with sealed fields opened; null where the key is destroyed.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Value>,
    /// Why it does not count, if its key could not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored: Option<String>,
    /// The stored bytes, base64.
    pub record: String,
}

/// A file of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListedFile {
    /// Its path in the archive.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// Version of this layout.
    pub format: u32,
    pub account: String,
    pub exported_at: String,
    /// Fingerprint of the root key that every signature in here leads back to.
    pub root_key: String,
    #[schema(inline)]
    pub files: Vec<ListedFile>,
}

/// `manifest.sig.json`: who vouches for the manifest.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ManifestSignature {
    /// Id of the commands service's key.
    pub key: String,
    /// Ed25519 over the DSSE encoding of account id and SHA-256 of `manifest.json`, hexadecimal.
    pub signature: String,
}

/// The JSON Schemas that go with an export, by the name of what they describe.
pub(crate) fn schemas() -> Vec<(&'static str, Vec<u8>)> {
    fn of<T: PartialSchema>() -> RefOr<Schema> {
        T::schema()
    }
    let all = [
        ("account", of::<ExportedAccount>()),
        ("token", of::<ExportedToken>()),
        ("sandbox", of::<ExportedSandbox>()),
        ("usage", of::<ExportedUsage>()),
        ("record", of::<ExportedRecord>()),
        ("manifest", of::<Manifest>()),
        ("manifest-signature", of::<ManifestSignature>()),
    ];
    let text = |schema| {
        let mut schema = json!(schema);
        schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        format!("{schema:#}\n").into_bytes()
    };
    all.into_iter().map(|(name, schema)| (name, text(schema))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_object_has_a_schema_that_stands_by_itself() {
        let names: Vec<&str> = schemas().iter().map(|(name, _)| *name).collect();
        let kinds = ["account", "token", "sandbox", "usage", "record", "manifest", "manifest-signature"];
        assert_eq!(names, kinds);
        for (name, text) in schemas() {
            let text = String::from_utf8(text).expect("it is JSON");
            assert!(!text.contains("$ref"), "{name} leads elsewhere: {text}");
            assert!(text.contains("\"properties\""), "{name} says nothing: {text}");
        }
    }
}
