//! Repeated requests: the same idempotency key gives the first request's answer, for five minutes, from memory.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::StatusCode;
use omnirun_agent_api::Refusal;
use tokio::sync::watch;

use crate::answer::No;

/// How long an answer is kept.
const AGE_MAX: Duration = Duration::from_secs(300);
/// Bytes of requests and answers kept together; the oldest go first.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Keys kept.
const KEYS_MAX: usize = 1024;

/// The JSON text of a 200 answer.
pub type Answered = Bytes;
type Outcome = Result<Answered, (StatusCode, Refusal)>;

struct Repeat {
    request: Bytes,
    since: Instant,
    answer: watch::Receiver<Option<Outcome>>,
}

impl Repeat {
    fn bytes(&self) -> usize {
        let answer = self.answer.borrow().as_ref().map_or(0, |answer| answer.as_ref().map_or(0, Bytes::len));
        self.request.len() + answer
    }
}

/// Answers by key.
#[derive(Default)]
pub struct Repeats(Mutex<HashMap<String, Arc<Repeat>>>);

impl Repeats {
    /// Does the work once for a key and gives every caller its result. Without a key the work is done here and ends
    /// with its caller; with one it goes on when the caller goes away, since the caller may come back.
    pub async fn once(
        &self,
        key: Option<String>,
        request: Bytes,
        work: impl Future<Output = Result<Answered, No>> + Send + 'static,
    ) -> Result<Answered, No> {
        let Some(key) = key else { return work.await };
        if key.is_empty() || key.len() > 255 || !key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return Err(No::invalid("bad_idempotency_key", "the idempotency key is not 1 to 255 letters, digits and -"));
        }
        let mut answer = self.begin(key, request, work)?;
        let outcome = answer.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|outcome| outcome.clone());
        let lost = || No::new(StatusCode::SERVICE_UNAVAILABLE, "lost", "the first request ended without an answer");
        outcome.ok_or_else(lost)?.map_err(|(status, refusal)| No(status, refusal))
    }

    fn begin(
        &self,
        key: String,
        request: Bytes,
        work: impl Future<Output = Result<Answered, No>> + Send + 'static,
    ) -> Result<watch::Receiver<Option<Outcome>>, No> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forget_old(&mut table);
        if let Some(first) = table.get(&key) {
            if first.request != request {
                let message = "the idempotency key was used for another request";
                return Err(No::new(StatusCode::CONFLICT, "idempotency_key_reused", message));
            }
            return Ok(first.answer.clone());
        }
        let (tell, answer) = watch::channel(None);
        table.insert(key, Arc::new(Repeat { request, since: Instant::now(), answer: answer.clone() }));
        drop(table);
        tokio::spawn(async move {
            let outcome = work.await.map_err(|No(status, refusal)| (status, refusal));
            let _ = tell.send(Some(outcome));
        });
        Ok(answer)
    }
}

fn forget_old(table: &mut HashMap<String, Arc<Repeat>>) {
    table.retain(|_, repeat| repeat.since.elapsed() < AGE_MAX);
    let mut bytes: usize = table.values().map(|repeat| repeat.bytes()).sum();
    while bytes > BYTES_MAX || table.len() >= KEYS_MAX {
        let oldest = table.iter().min_by_key(|(_, repeat)| repeat.since).map(|(key, _)| key.clone());
        let Some(gone) = oldest.and_then(|key| table.remove(&key)) else { return };
        bytes -= gone.bytes().min(bytes);
    }
}
