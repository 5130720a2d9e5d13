//! Repeated requests: the same idempotency key gives the first request's answer, while it runs and for five minutes after,
//! from memory.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::watch;

use crate::answer::No;

/// How long an answer is kept.
const AGE_MAX: Duration = Duration::from_secs(300);
/// Bytes of requests and answers kept together; the oldest answers go first.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Keys kept.
const KEYS_MAX: usize = 1024;

const LOST: No =
    No::new(StatusCode::SERVICE_UNAVAILABLE, "lost", "the first request ended without an answer");
const FULL: No = No::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "guest_exhausted",
    "too many requests with an idempotency key are running",
);

/// The JSON text of a 200 answer.
pub type Answered = Bytes;

#[derive(Clone)]
struct Told {
    at: Instant,
    outcome: Result<Answered, No>,
}

struct Repeat {
    request: Bytes,
    told: watch::Receiver<Option<Told>>,
}

impl Repeat {
    fn told_at(&self) -> Option<Instant> {
        self.told.borrow().as_ref().map(|told| told.at)
    }

    fn bytes(&self) -> usize {
        let told = self.told.borrow();
        let answer = told.as_ref().and_then(|told| told.outcome.as_ref().ok()).map_or(0, Bytes::len);
        self.request.len() + answer
    }
}

type Table = HashMap<String, Repeat>;

/// Answers by key.
#[derive(Default, Clone)]
pub struct Repeats(Arc<Mutex<Table>>);

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
            return Err(No::invalid(
                "bad_idempotency_key",
                "the idempotency key is not 1 to 255 letters, digits and -",
            ));
        }
        outcome(self.begin(key, request, work)?).await
    }

    fn begin(
        &self,
        key: String,
        request: Bytes,
        work: impl Future<Output = Result<Answered, No>> + Send + 'static,
    ) -> Result<watch::Receiver<Option<Told>>, No> {
        let mut table = self.table();
        forget_old(&mut table, Instant::now());
        if let Some(first) = table.get(&key) {
            if first.request != request {
                let message = "the idempotency key was used for another request";
                return Err(No::new(StatusCode::CONFLICT, "idempotency_key_reused", message));
            }
            return Ok(first.told.clone());
        }
        let (tell, told) = watch::channel(None);
        table.insert(key.clone(), Repeat { request, told: told.clone() });
        if !make_room(&mut table) {
            table.remove(&key);
            return Err(FULL);
        }
        drop(table);
        let repeats = self.clone();
        // A task of its own, so that work that panics is answered for as well: what is not answered is never forgotten.
        let work = tokio::spawn(work);
        tokio::spawn(async move {
            let outcome = work.await.unwrap_or(Err(LOST));
            let _ = tell.send(Some(Told { at: Instant::now(), outcome }));
            make_room(&mut repeats.table());
        });
        Ok(told)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn outcome(mut told: watch::Receiver<Option<Told>>) -> Result<Answered, No> {
    let told = told.wait_for(Option::is_some).await.map_err(|_| LOST)?;
    told.as_ref().map_or(Err(LOST), |told| told.outcome.clone())
}

fn forget_old(table: &mut Table, now: Instant) {
    table.retain(|_, repeat| repeat.told_at().is_none_or(|at| now.duration_since(at) < AGE_MAX));
}

/// Forgets the oldest answers until the rest is within the limits, and says whether it is. What still runs stays: a retry
/// would run it a second time beside the first.
fn make_room(table: &mut Table) -> bool {
    let mut bytes: usize = table.values().map(Repeat::bytes).sum();
    while bytes > BYTES_MAX || table.len() > KEYS_MAX {
        let told = table.iter().filter_map(|(key, repeat)| Some((repeat.told_at()?, key)));
        let Some(oldest) = told.min().map(|(_, key)| key.clone()) else { return false };
        bytes -= table.remove(&oldest).map_or(0, |gone| gone.bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const REQUEST: Bytes = Bytes::from_static(b"request");

    type Work = std::pin::Pin<Box<dyn Future<Output = Result<Answered, No>> + Send>>;

    fn answers(text: &'static str) -> Work {
        Box::pin(ready(Ok(text.into())))
    }

    fn runs() -> Work {
        Box::pin(pending())
    }

    async fn ask(repeats: &Repeats, key: &str, work: Work) -> Result<Answered, No> {
        repeats.once(Some(key.into()), REQUEST, work).await
    }

    fn code<T>(asked: Result<T, No>) -> Option<String> {
        asked.err().map(|No(_, refusal)| refusal.code.into())
    }

    #[tokio::test]
    async fn what_still_runs_after_five_minutes_is_not_run_beside_itself() {
        let repeats = Repeats::default();
        let (end, ended) = tokio::sync::oneshot::channel();
        let work = async { ended.await.map_err(|_| LOST) };
        let first = repeats.begin("key".into(), REQUEST, work).expect("there is room");
        forget_old(&mut repeats.table(), Instant::now() + 2 * AGE_MAX);
        let second = repeats.begin("key".into(), REQUEST, answers("second")).expect("it is known");
        end.send("first".into()).expect("it runs");
        assert_eq!(outcome(first).await.expect("an answer"), "first");
        assert_eq!(outcome(second).await.expect("an answer"), "first");
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_five_minutes_after_it_was_given() {
        let repeats = Repeats::default();
        assert_eq!(ask(&repeats, "key", answers("first")).await.expect("an answer"), "first");
        let told_at = repeats.table()["key"].told_at().expect("it was answered");
        forget_old(&mut repeats.table(), told_at + AGE_MAX - Duration::from_secs(1));
        assert_eq!(ask(&repeats, "key", answers("second")).await.expect("an answer"), "first");
        forget_old(&mut repeats.table(), told_at + AGE_MAX);
        assert_eq!(ask(&repeats, "key", answers("third")).await.expect("an answer"), "third");
    }

    #[tokio::test]
    async fn more_keys_than_are_kept_drop_the_oldest_answer_and_nothing_that_runs() {
        let repeats = Repeats::default();
        for number in 2..KEYS_MAX {
            repeats.begin(format!("runs-{number}"), REQUEST, runs()).expect("there is room");
        }
        for key in ["a", "b", "c"] {
            ask(&repeats, key, answers(key)).await.expect("there is room");
        }
        assert!(!repeats.table().contains_key("a"));
        for key in ["runs-0", "runs-1"] {
            repeats.begin(key.into(), REQUEST, runs()).expect("there is room");
        }
        assert_eq!(code(ask(&repeats, "d", answers("d")).await), Some("guest_exhausted".into()));
        assert_eq!(repeats.table().len(), KEYS_MAX);
        assert!(repeats.begin("runs-2".into(), REQUEST, runs()).is_ok());
    }

    #[tokio::test]
    async fn requests_that_are_too_long_together_do_not_run_together() {
        let repeats = Repeats::default();
        let long = Bytes::from(vec![0; BYTES_MAX / 2 + 1]);
        repeats.begin("a".into(), long.clone(), runs()).expect("there is room");
        assert_eq!(code(repeats.begin("b".into(), long, runs())), Some("guest_exhausted".into()));
        assert!(repeats.begin("c".into(), REQUEST, runs()).is_ok());
    }

    #[tokio::test]
    async fn work_that_fails_without_an_answer_is_answered_for() {
        let repeats = Repeats::default();
        let work = Box::pin(async { panic!("the test's own") });
        assert_eq!(code(ask(&repeats, "key", work).await), Some("lost".into()));
        assert!(repeats.table()["key"].told_at().is_some());
    }
}
