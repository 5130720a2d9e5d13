//! The ZIP on its way out, and the manifest of what went into it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use omnirun_events::keys::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use crate::export::ExportError;
use crate::shapes::ListedFile;

/// Bytes that are collected before they are sent.
const PIECE_BYTES: usize = 64 * 1024;

/// Where pieces of the archive go.
pub(crate) type Pieces = mpsc::Sender<Result<Bytes, ExportError>>;

/// An archive that is being made. It holds a piece, never the whole.
pub(crate) struct Archive {
    zip: ZipWriter<StreamWriter<Buffer>>,
    buffer: Buffer,
    pieces: Pieces,
    /// How long a piece may wait for room.
    within: Duration,
    /// The file that is being written.
    file: Option<(String, Sha256, u64)>,
    files: Vec<ListedFile>,
}

impl Archive {
    pub(crate) fn new(pieces: Pieces, within: Duration) -> Self {
        let buffer = Buffer::default();
        let zip = ZipWriter::new_stream(buffer.clone());
        Self { zip, buffer, pieces, within, file: None, files: Vec::new() }
    }

    /// Ends the file before and begins the next one.
    pub(crate) fn begin(&mut self, name: &str) -> Result<(), ExportError> {
        self.end_file();
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        self.zip.start_file(name, options).map_err(ExportError::Archive)?;
        self.file = Some((name.to_owned(), Sha256::new(), 0));
        Ok(())
    }

    /// Writes to the file that was begun last, and sends what has come together. Waits a while for a slow receiver.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        if let Some((_, digest, length)) = &mut self.file {
            digest.update(bytes);
            *length += bytes.len() as u64;
        }
        self.zip.write_all(bytes).map_err(|error| ExportError::Archive(error.into()))?;
        match self.buffer.len() >= PIECE_BYTES {
            true => self.send().await,
            false => Ok(()),
        }
    }

    /// A whole file.
    pub(crate) async fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.begin(name)?;
        self.write(bytes).await
    }

    /// The files so far, with their digests.
    pub(crate) fn listed(&mut self) -> Vec<ListedFile> {
        self.end_file();
        self.files.clone()
    }

    /// Ends the archive and sends the rest of it.
    pub(crate) async fn finish(mut self) -> Result<(), ExportError> {
        let zip = std::mem::replace(&mut self.zip, ZipWriter::new_stream(Buffer::default()));
        zip.finish().map_err(ExportError::Archive)?;
        self.send().await
    }

    fn end_file(&mut self) {
        if let Some((name, digest, bytes)) = self.file.take() {
            let sha256 = Digest(digest.finalize().into()).to_string();
            self.files.push(ListedFile { name, bytes, sha256 });
        }
    }

    async fn send(&mut self) -> Result<(), ExportError> {
        let piece = self.buffer.take();
        self.pieces.send_timeout(Ok(piece), self.within).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => ExportError::Stalled,
            SendTimeoutError::Closed(_) => ExportError::NobodyReads,
        })
    }
}

/// What the ZIP writer wrote and nobody was sent yet.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
