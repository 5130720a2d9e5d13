//! Files as streams of bytes, in and out, in pieces that a slow side holds back.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    StatusCode,
    body::{Frame, Incoming},
    header,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::{blocking, entry, open, path::Query};
use crate::answer::{Handled, No, json, stream as streamed};

/// Bytes read at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// `PUT /files/upload`. A body that ends early leaves no half file: what was written is removed.
pub async fn upload(query: Query, mut body: Incoming) -> Handled {
    let (file, at) = blocking(move || {
        let at = query.resolved()?;
        Ok((entry::create(&query.user()?, &at)?, at))
    })
    .await?;
    let mut file = File::from_std(file);
    let written = async {
        while let Some(frame) = body.frame().await {
            let cut = No::new(StatusCode::BAD_REQUEST, "bad_request", "the upload ended early");
            if let Ok(bytes) = frame.map_err(|_| cut)?.into_data() {
                file.write_all(&bytes).await?;
            }
        }
        file.flush().await?;
        Ok::<(), No>(())
    };
    if let Err(no) = written.await {
        let _ = tokio::fs::remove_file(&at).await;
        return Err(no);
    }
    Ok(json(&entry::of(&at)?))
}

/// `GET /files/download`.
pub async fn download(query: Query) -> Handled {
    let (file, length) = blocking(move || {
        let file = open::to_read(&query.resolved()?)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    })
    .await?;
    let pieces = stream::try_unfold(File::from_std(file), |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let read = file.read_buf(&mut piece).await?;
        Ok::<_, io::Error>((read > 0).then(|| (Frame::data(Bytes::from(piece)), file)))
    });
    let mut answer = streamed("application/octet-stream", BodyExt::boxed_unsync(StreamBody::new(pieces)));
    // The kernel's own files under /proc and /sys say 0 and are not empty.
    if length > 0 {
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(answer)
}
