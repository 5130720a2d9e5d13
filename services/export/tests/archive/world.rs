//! An account with a token, its export, and the files of an archive.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use omnirun_commands_api::command::{Command, EXPORT_TYPE, Envelope, Personal};
use omnirun_commands_api::{Commands, Outcome, Reply, SendError};
use omnirun_events::account::{AccountOpened, EMAIL_FIELD};
use omnirun_events::envelope::{Draft, Head, Role};
use omnirun_events::keys::KeyEnrolled;
use omnirun_events::log::memory::MemoryLog;
use omnirun_events::log::{Append as _, Batch, Entry, Read as _};
use omnirun_events::sealing::{DataKey, DataKeyLabel};
use omnirun_events::signing::Signer;
use omnirun_events::token::{NAME_FIELD, Scope, TokenCreated, TokenKind, TokenVerifier};
use omnirun_events::*;
use omnirun_export::{ExportError, Exporter};
use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

pub const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
pub const TOKEN: TokenId = TokenId::from_bytes([2; 16]);

pub fn root() -> Signer {
    Signer::from_seed(&[1; 32], Role::Root)
}

pub fn commands() -> Signer {
    Signer::from_seed(&[2; 32], Role::Commands)
}

pub fn key() -> DataKey {
    DataKey::from_bytes([3; 32])
}

/// Opens with the one key there is, and signs.
struct Double;

#[async_trait]
impl Commands for Double {
    async fn send(&self, envelope: Envelope) -> Result<Reply, SendError> {
        let outcome = match envelope.command {
            Command::OpenFields { fields, .. } => {
                let texts = fields.into_iter().map(|field| {
                    let plain = key().open(&field.sealed, &field.subject, &field.field).ok()?;
                    Some(Personal::new(String::from_utf8(plain).expect("it was text")))
                });
                Outcome::FieldsOpened(texts.collect())
            }
            Command::SignExport { account, manifest } => {
                let signature = commands().sign_as(EXPORT_TYPE, &[account.as_bytes(), &manifest.0]).to_vec();
                Outcome::ExportSigned { key: commands().id(), signature }
            }
            other => panic!("an export does not ask for {other:?}"),
        };
        Ok(Reply { position: None, outcome })
    }
}

pub async fn append(log: &MemoryLog, signer: &Signer, actor: Actor, subject: SubjectKind, event: Event) {
    let subject = Subject::from(subject);
    let last = log.last(&subject).await.expect("memory");
    let head = last
        .map_or(Head::EMPTY, |stored| codec::decode(&stored.record).expect("a record").head(stored.sequence));
    let (commit, at) = (CommitId::from_bytes([7; 16]), Timestamp(1_790_000_000_000));
    let draft = Draft { commit, subject: subject.clone(), at, actor, cause: None, events: vec![event] };
    let record = signer.sign(&draft, &head).expect("small").bytes;
    let entry = Entry { subject, expected: head.sequence, commit, record };
    log.append_all(Batch::one(entry)).await.expect("nobody else writes");
}

/// A log with one account that has one token.
pub async fn log() -> MemoryLog {
    let log = MemoryLog::default();
    let (key_id, public) = (commands().id(), commands().public());
    let enrolled = KeyEnrolled { key: key_id, public, role: Role::Commands, host: None };
    append(&log, &root(), Actor::Operator, SubjectKind::KeyRing, enrolled.into()).await;
    let (own, token) = (SubjectKind::Account(ACCOUNT), SubjectKind::Token(ACCOUNT, TOKEN));
    let seal = |subject: SubjectKind, field, text: &str| {
        key().seal(DataKeyLabel::Account, [9; 24], &subject.into(), field, text.as_bytes())
    };
    let email = seal(own, EMAIL_FIELD, "someone@example.org");
    let opened = AccountOpened { email, plan: "sandbox".to_owned() };
    append(&log, &commands(), Actor::Account(ACCOUNT), own, opened.into()).await;
    let created = TokenCreated {
        token: TOKEN,
        kind: TokenKind::Api,
        verifier: TokenVerifier([5; 32]),
        name: Some(seal(token, NAME_FIELD, "build server")),
        scopes: vec![Scope::UsageRead],
        hint: "abc123".to_owned(),
        expires_at: None,
    };
    append(&log, &commands(), Actor::Account(ACCOUNT), token, created.into()).await;
    log
}

/// More than waits for a slow receiver: each name is a piece of its own.
pub async fn name_many(log: &MemoryLog) {
    for n in 10..20 {
        let token = TokenId::from_bytes([n; 16]);
        let subject = SubjectKind::Token(ACCOUNT, token);
        let name = key().seal(DataKeyLabel::Account, [n; 24], &subject.into(), NAME_FIELD, &[b'n'; 100_000]);
        let created = TokenCreated {
            token,
            kind: TokenKind::Api,
            verifier: TokenVerifier([n; 32]),
            name: Some(name),
            scopes: vec![Scope::UsageRead],
            hint: "abc123".to_owned(),
            expires_at: None,
        };
        append(log, &commands(), Actor::Account(ACCOUNT), subject, created.into()).await;
    }
}

pub fn exporter(log: MemoryLog, account: AccountId, taken_within: Duration) -> Exporter {
    Exporter {
        reader: Arc::new(log),
        commands: Arc::new(Double),
        root: root().public(),
        clock: Arc::new(|| Timestamp(1_790_000_001_000)),
        actor: Actor::Account(account),
        taken_within,
    }
}

pub async fn export(account: AccountId) -> Result<Vec<u8>, ExportError> {
    let exporter = exporter(log().await, account, Duration::MAX);
    let (mut pieces, mut bytes) = (exporter.begin(account, std::future::pending()), Vec::new());
    while let Some(piece) = pieces.recv().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// The archive in a file of its own directory.
pub async fn archive() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("export.zip");
    std::fs::write(&path, export(ACCOUNT).await.expect("a good log")).expect("room");
    (directory, path)
}

/// Names and bytes, in their order.
pub fn files(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = ZipArchive::new(File::open(path).expect("ours")).expect("an archive");
    let count = archive.len();
    let read = |n| {
        let mut file = archive.by_index(n).expect("it is there");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("whole");
        (file.name().expect("plain").into_owned(), bytes)
    };
    (0..count).map(read).collect()
}

pub fn write(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut zip = ZipWriter::new(File::create(path).expect("ours"));
    for (name, bytes) in files {
        zip.start_file(name.as_str(), SimpleFileOptions::default()).expect("a new name");
        zip.write_all(bytes).expect("room");
    }
    zip.finish().expect("room");
}

pub fn json(files: &[(String, Vec<u8>)], name: &str) -> Value {
    let (_, bytes) = files.iter().find(|(other, _)| other == name).expect("it is there");
    serde_json::from_slice(bytes).expect("JSON")
}
