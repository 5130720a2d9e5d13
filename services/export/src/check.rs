//! Taking an export apart with nothing but the root key: digests, the manifest's signature, and every record.

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use omnirun_events::envelope::{Record, Role};
use omnirun_events::id::{AccountId, KeyId};
use omnirun_events::keyring::KeyRing;
use omnirun_events::keys::Digest;
use omnirun_events::log::{Sequence, Stored};
use omnirun_events::subject::{Log, Subject};
use omnirun_events::verify::{Depth, Verdict, Verifier};
use serde::de::DeserializeOwned;
use sha2::Digest as _;
use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

use crate::shapes::{ExportedRecord, Manifest, ManifestSignature};

/// Bytes of a file that is read whole, at most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The end of central directory record without a comment (APPNOTE 6.3.10, 4.3.16), the last thing in an archive of ours.
const END_BYTES: usize = 22;
const END_SIGNATURE: &[u8] = b"PK\x05\x06";

/// What a good archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Whose it is.
    pub account: String,
    /// When it was made, as the manifest says.
    pub exported_at: String,
    /// Files whose digests fit.
    pub files: usize,
    /// Records whose chains and signatures fit.
    pub believed: u64,
    /// Well-made records that say what their keys may not say.
    pub ignored: u64,
}

/// Why an archive is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file cannot be opened.
    #[error("cannot open the archive")]
    Open(#[source] std::io::Error),
    /// It is no archive, or a file in it is missing or cut.
    #[error("cannot read {file} in the archive")]
    Archive {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: zip::result::ZipError,
    },
    /// A file in it is not what an export holds there.
    #[error("{file} is not what an export holds there: {what}")]
    Shape {
        /// Which.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// A file was changed, added or removed.
    #[error("{file} is not the file that the manifest lists")]
    Changed {
        /// Which.
        file: String,
    },
    /// The manifest's signature does not fit.
    #[error("the manifest is not signed by a key that the root key enrolled")]
    Signature,
    /// A record in it cannot be believed.
    #[error("a record in it cannot be believed")]
    Fault(#[from] omnirun_events::verify::Fault),
    /// The root key is no acceptable key.
    #[error("the root key is weak")]
    Root(#[from] omnirun_events::signing::WeakKey),
}

type Archive = ZipArchive<BufReader<File>>;

/// Checks an archive. Whatever it holds that the manifest does not list is a fault.
pub fn check(path: &Path, root: &Digest) -> Result<Checked, CheckError> {
    check_with(path, root, |_, _| ())
}

/// [`check`], which hands out every record that is believed: first those of the whole system, then the account's, EVENTS before meters. What
/// was handed out is good only if the whole archive turns out to be.
pub fn check_with(
    path: &Path,
    root: &Digest,
    mut take: impl FnMut(&Stored, &Record),
) -> Result<Checked, CheckError> {
    let mut archive = open(path)?;
    let bytes = whole(&mut archive, "manifest.json")?;
    let manifest: Manifest = parse("manifest.json", &bytes)?;
    check_files(&mut archive, &manifest)?;
    let mut verifier = Verifier::new(KeyRing::rooted_in(root)?);
    let (mut believed, mut ignored) = (0, 0);
    for name in ["keys.jsonl", "erasures.jsonl", "events.jsonl"] {
        check_records(&mut archive, name, &mut verifier, |stored, verdict| match verdict {
            Verdict::Believed(record) => {
                believed += 1;
                take(stored, &record);
            }
            Verdict::Ignored(..) => ignored += 1,
            Verdict::Erased => {}
        })?;
    }
    let signature: ManifestSignature =
        parse("manifest.sig.json", &whole(&mut archive, "manifest.sig.json")?)?;
    check_signature(&manifest, &bytes, &signature, verifier.ring()).ok_or(CheckError::Signature)?;
    let Manifest { account, exported_at, files, .. } = manifest;
    Ok(Checked { account, exported_at, files: files.len(), believed, ignored })
}

/// Every program that reads ZIP files finds the same files in it. Some go by the directory at the end, some by the headers before each file, of
/// two files with one name they take either, and what stands before the first file or after the directory may be an archive to some of them.
fn open(path: &Path) -> Result<Archive, CheckError> {
    let mut file = BufReader::new(File::open(path).map_err(CheckError::Open)?);
    let mut end = [0; END_BYTES];
    let read = file.seek(SeekFrom::End(-(END_BYTES as i64))).and_then(|_| file.read_exact(&mut end));
    match read {
        Ok(()) if end.starts_with(END_SIGNATURE) => {}
        Err(error) if error.kind() != ErrorKind::InvalidInput => {
            return Err(unreadable("the end", error.into()));
        }
        // Another end, or one that would be before the beginning.
        _ => {
            let what = "something stands after its directory, or it is cut short".to_owned();
            return Err(CheckError::Shape { file: "the archive".to_owned(), what });
        }
    }
    let from_the_start = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut archive = ZipArchive::with_config(from_the_start, file)
        .map_err(|source| unreadable("the directory", source))?;
    archive.validate_header_consistency().map_err(|source| unreadable("the directory", source))?;
    Ok(archive)
}

fn check_files(archive: &mut Archive, manifest: &Manifest) -> Result<(), CheckError> {
    for name in archive.file_names() {
        let name = name.map_err(|source| unreadable("a name", source))?.into_owned();
        let is_listed = manifest.files.iter().any(|file| file.name == name);
        if !is_listed && !["manifest.json", "manifest.sig.json"].contains(&name.as_str()) {
            return Err(CheckError::Changed { file: name });
        }
    }
    for listed in &manifest.files {
        let mut file = archive.by_name(&listed.name).map_err(|source| unreadable(&listed.name, source))?;
        let (mut digest, mut length, mut buffer) = (sha2::Sha256::new(), 0_u64, [0; 64 * 1024]);
        loop {
            let count = file.read(&mut buffer).map_err(|error| unreadable(&listed.name, error.into()))?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            length += count as u64;
        }
        let found = Digest(digest.finalize().into()).to_string();
        if (found.as_str(), length) != (listed.sha256.as_str(), listed.bytes) {
            return Err(CheckError::Changed { file: listed.name.clone() });
        }
    }
    Ok(())
}

fn check_records(
    archive: &mut Archive,
    name: &str,
    verifier: &mut Verifier,
    mut take: impl FnMut(&Stored, Verdict),
) -> Result<(), CheckError> {
    let file = archive.by_name(name).map_err(|source| unreadable(name, source))?;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| unreadable(name, error.into()))?;
        let line: ExportedRecord = parse(name, line.as_bytes())?;
        let (log, stored) = stored(&line).ok_or_else(|| CheckError::Shape {
            file: name.to_owned(),
            what: format!("the record at {} {}", line.log, line.position),
        })?;
        let verdict = verifier.check(log, &stored, Depth::Signatures)?;
        take(&stored, verdict);
    }
    Ok(())
}

fn stored(line: &ExportedRecord) -> Option<(Log, Stored)> {
    let subject: Subject = line.subject.parse().ok()?;
    let log = subject.log();
    let record = BASE64.decode(line.record.as_bytes()).ok()?.into();
    (log.to_string() == line.log)
        .then_some((log, Stored { sequence: Sequence(line.position), subject, record }))
}

fn check_signature(
    manifest: &Manifest,
    bytes: &[u8],
    signature: &ManifestSignature,
    ring: &KeyRing,
) -> Option<()> {
    let key: KeyId = signature.key.parse().ok()?;
    let entry = ring.get(key).filter(|entry| entry.role == Role::Commands)?;
    let account: AccountId = manifest.account.parse().ok()?;
    let signature = HEXLOWER.decode(signature.signature.as_bytes()).ok()?;
    let digest = sha2::Sha256::digest(bytes);
    let kind = omnirun_commands_api::command::EXPORT_TYPE;
    entry.public.verify_as(kind, &[account.as_bytes(), &digest], &signature).ok()
}

fn whole(archive: &mut Archive, name: &str) -> Result<Vec<u8>, CheckError> {
    let file = archive.by_name(name).map_err(|source| unreadable(name, source))?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(name, error.into()))?;
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, CheckError> {
    serde_json::from_slice(bytes)
        .map_err(|error| CheckError::Shape { file: name.to_owned(), what: error.to_string() })
}

fn unreadable(file: &str, source: zip::result::ZipError) -> CheckError {
    CheckError::Archive { file: file.to_owned(), source }
}
