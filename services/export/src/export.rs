//! Making an export: what goes into the archive, in which order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use omnirun_commands_api::command::{Command, Envelope, FIELDS_MAX, Personal, SealedField};
use omnirun_commands_api::{Commands, Outcome, SendError};
use omnirun_events::envelope::Actor;
use omnirun_events::id::{AccountId, CommandId};
use omnirun_events::keys::Digest;
use omnirun_events::log::{Read, ReadError};
use omnirun_events::unit::{Clock, Millis};
use omnirun_events::verify::{Fault, TombstonesError};
use serde::Serialize;
use sha2::Digest as _;
use tokio::sync::mpsc;

use crate::archive::Archive;
use crate::collect::Collected;
use crate::shapes::{
    ExportedAccount, ExportedSandbox, ExportedToken, ExportedUsage, Manifest, ManifestSignature, schemas,
};

/// Pieces that wait for a slow receiver.
const PIECES_WAITING: usize = 4;

/// How long the commands service may take for one answer.
const ANSWER_WITHIN: Millis = Millis(30_000);

/// Version of the archive's layout.
pub(crate) const FORMAT: u32 = 1;

const README: &str = include_str!("readme.txt");

/// Why an export broke off. What was sent until then is no whole archive and no program takes it for one.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such account.
    #[error("there is no such account")]
    NoAccount,
    /// A log cannot be read.
    #[error("cannot read a log")]
    Read(#[from] ReadError),
    /// What was erased cannot be known.
    #[error("cannot read the tombstones")]
    Tombstones(#[from] TombstonesError),
    /// A record about the account cannot be believed.
    #[error("a record about the account cannot be believed")]
    Fault(#[from] Fault),
    /// The commands service did not open fields, or did not sign.
    #[error("the commands service cannot be asked")]
    Commands(#[from] SendError),
    /// The commands service answered something else.
    #[error("the commands service answered another command")]
    Unexpected,
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Archive(#[source] zip::result::ZipError),
    /// Whoever asked is gone.
    #[error("nobody takes the export")]
    NobodyReads,
    /// Whoever asked takes too slowly.
    #[error("no piece of the export was taken for too long")]
    Stalled,
    /// Whoever asked may not have it any more.
    #[error("who asked for the export may not have it any more")]
    Ended,
    /// The pinned root key is no acceptable key.
    #[error("the root key is weak")]
    Root(#[from] omnirun_events::signing::WeakKey),
}

/// What an export is made with.
#[derive(Clone)]
pub struct Exporter {
    /// Reads EVENTS and the usage logs.
    pub reader: Arc<dyn Read>,
    /// Opens fields and signs.
    pub commands: Arc<dyn Commands>,
    /// The pinned root key.
    pub root: Digest,
    /// The time.
    pub clock: Clock,
    /// Who wants it: the account's owner, or an operator.
    pub actor: Actor,
    /// How long a piece may wait for room among those that nobody has taken yet.
    pub taken_within: Duration,
}

impl Exporter {
    /// Starts an export; its pieces in order, or why it broke off. Dropping the receiver ends it, and so does `ended`, which is dropped once the
    /// export is over, whether or not anybody takes its pieces. Needs a tokio runtime.
    pub fn begin(
        self,
        account: AccountId,
        ended: impl Future<Output = ()> + Send + 'static,
    ) -> mpsc::Receiver<Result<Bytes, ExportError>> {
        // One place is kept for why it broke off, which so waits for nobody.
        let (pieces, receiver) = mpsc::channel(PIECES_WAITING + 1);
        let last = pieces.clone().try_reserve_owned().expect("nothing is in it yet");
        tokio::spawn(async move {
            let archive = Archive::new(pieces.clone(), self.taken_within);
            let made = tokio::select! {
                biased;
                () = ended => Err(ExportError::Ended),
                () = pieces.closed() => Err(ExportError::NobodyReads),
                made = self.run(account, archive) => made,
            };
            if let Err(error) = made {
                last.send(Err(error));
            }
        });
        receiver
    }

    async fn run(&self, account: AccountId, mut archive: Archive) -> Result<(), ExportError> {
        archive.file("README.txt", README.as_bytes()).await?;
        let collected = self.collect(account, &mut archive).await?;
        self.write_account(account, &collected, &mut archive).await?;
        self.write_tokens(account, &collected, &mut archive).await?;
        self.write_sandboxes(account, &collected, &mut archive).await?;
        let usage: Vec<_> =
            collected.usage.of(account).map(|(id, usage)| ExportedUsage::of(id, usage)).collect();
        archive.file("usage.json", &json(&usage)).await?;
        for (name, schema) in schemas() {
            archive.file(&format!("schemas/{name}.json"), &schema).await?;
        }
        let manifest = Manifest {
            format: FORMAT,
            account: account.to_string(),
            exported_at: (self.clock)().rfc3339(),
            root_key: self.root.to_string(),
            files: archive.listed(),
        };
        let manifest = json(&manifest);
        archive.file("manifest.json", &manifest).await?;
        let signature = self.sign(account, &manifest).await?;
        archive.file("manifest.sig.json", &json(&signature)).await?;
        archive.finish().await
    }

    async fn write_account(
        &self,
        account: AccountId,
        collected: &Collected,
        archive: &mut Archive,
    ) -> Result<(), ExportError> {
        let known = collected.directory.accounts.get(account).ok_or(ExportError::NoAccount)?;
        let email = self.open(account, vec![collected.email_of(account, known)]).await?.pop().flatten();
        let shown = ExportedAccount {
            id: account.to_string(),
            email,
            plan: known.plans.at((self.clock)()).to_owned(),
            created_at: known.opened_at.rfc3339(),
        };
        archive.file("account.json", &json(&shown)).await
    }

    async fn write_tokens(
        &self,
        account: AccountId,
        collected: &Collected,
        archive: &mut Archive,
    ) -> Result<(), ExportError> {
        let tokens: Vec<_> = collected.directory.tokens.of(account).collect();
        let mut shown = Vec::with_capacity(tokens.len());
        for chunk in tokens.chunks(FIELDS_MAX) {
            let sealed = chunk.iter().map(|(id, token)| collected.name_of(account, *id, token)).collect();
            let names = self.open_some(account, sealed).await?;
            shown.extend(
                chunk.iter().zip(names).map(|((id, token), name)| ExportedToken::of(*id, token, name)),
            );
        }
        archive.file("tokens.json", &json(&shown)).await
    }

    async fn write_sandboxes(
        &self,
        account: AccountId,
        collected: &Collected,
        archive: &mut Archive,
    ) -> Result<(), ExportError> {
        let sandboxes: Vec<_> = collected.directory.sandboxes.of(account).collect();
        let mut shown = Vec::with_capacity(sandboxes.len());
        for chunk in sandboxes.chunks(FIELDS_MAX) {
            let sealed = chunk.iter().map(|(_, sandbox)| collected.metadata_of(account, sandbox)).collect();
            let texts = self.open_some(account, sealed).await?;
            let lines = chunk.iter().zip(texts);
            shown.extend(lines.map(|((id, sandbox), text)| ExportedSandbox::of(*id, sandbox, text)));
        }
        archive.file("sandboxes.json", &json(&shown)).await
    }

    /// Opens what there is, in order.
    async fn open_some(
        &self,
        account: AccountId,
        fields: Vec<Option<SealedField>>,
    ) -> Result<Vec<Option<String>>, ExportError> {
        let mut opened = self.open(account, fields.iter().flatten().cloned().collect()).await?.into_iter();
        Ok(fields.iter().map(|field| field.as_ref().and_then(|_| opened.next()).flatten()).collect())
    }

    /// Opens fields in order; none where the key is destroyed.
    pub(crate) async fn open(
        &self,
        account: AccountId,
        fields: Vec<SealedField>,
    ) -> Result<Vec<Option<String>>, ExportError> {
        let mut opened = Vec::with_capacity(fields.len());
        for chunk in fields.chunks(FIELDS_MAX) {
            match self.ask(Command::OpenFields { account, fields: chunk.to_vec() }).await? {
                Outcome::FieldsOpened(texts) => {
                    opened.extend(texts.into_iter().map(|text| text.map(Personal::into_revealed)));
                }
                _ => return Err(ExportError::Unexpected),
            }
        }
        Ok(opened)
    }

    async fn sign(&self, account: AccountId, manifest: &[u8]) -> Result<ManifestSignature, ExportError> {
        let manifest = Digest(sha2::Sha256::digest(manifest).into());
        match self.ask(Command::SignExport { account, manifest }).await? {
            Outcome::ExportSigned { key, signature } => Ok(ManifestSignature {
                key: key.to_string(),
                signature: data_encoding::HEXLOWER.encode(&signature),
            }),
            _ => Err(ExportError::Unexpected),
        }
    }

    async fn ask(&self, command: Command) -> Result<Outcome, ExportError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).expect("the system's random source works once the system is up");
        let at = (self.clock)();
        let id = CommandId::from_bytes(id);
        let envelope = Envelope { id, actor: self.actor, at, deadline: at.after(ANSWER_WITHIN), command };
        Ok(self.commands.send(envelope).await?.outcome)
    }
}

/// A value as a file.
fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("texts, numbers and lists always encode");
    text.push(b'\n');
    text
}
