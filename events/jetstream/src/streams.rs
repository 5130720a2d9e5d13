//! The streams as we want them, how a server's differ, and the one place that creates them.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{
    Compression, Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, ErrorCode};
use omnirun_events::{Filter, Log};

use crate::connect::list;
use crate::error::Source;

/// How long AUTH keeps a record: the life of a sign-in challenge.
const AUTH_AGE: Duration = Duration::from_secs(15 * 60);

/// How long the server remembers the ids of messages. A retry is recognised by reading, not by this; it only spares
/// a round trip, and costs about 0.2 KB of the server's memory per id.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(2 * 60);

/// Copies of each stream: 1 on one server, 3 on three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas(pub usize);

/// One setting of a stream that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The setting, by its name in the server's JSON.
    pub setting: &'static str,
    /// As we want it.
    pub wanted: String,
    /// As the server has it.
    pub found: String,
    /// Whether the server lets it be changed.
    pub change: Change,
}

/// Whether a setting of an existing stream can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// By an update.
    Possible,
    /// Only by a new stream.
    Impossible,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, wanted {}", self.setting, self.found, self.wanted)
    }
}

/// The subjects of a log's stream.
pub(crate) fn subjects(log: Log) -> Vec<String> {
    match log {
        Log::Events => vec!["evt.>".to_owned(), "sys.>".to_owned()],
        Log::Keys => vec!["key.>".to_owned()],
        Log::Auth => vec!["auth.>".to_owned()],
        Log::Usage(slot) => vec![format!("usage.{slot}.>")],
    }
}

/// The stream of a log as we want it.
///
/// Nothing is ever dropped to make room (`discard: new`, no limits). Single deletion is denied but in KEYS, where it is what
/// overwrites; purging cannot be denied here, because retention purges, so the server's permissions keep it to who may. Not compressed,
/// so that a search of the disk for what must not be there finds it.
pub(crate) fn wanted(log: Log, replicas: Replicas) -> Config {
    let (storage, max_age) = match log {
        Log::Auth => (StorageType::Memory, AUTH_AGE),
        _ => (StorageType::File, Duration::ZERO),
    };
    Config {
        name: log.to_string(),
        subjects: subjects(log),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: -1,
        max_message_size: -1,
        max_consumers: -1,
        max_age,
        storage,
        num_replicas: replicas.0,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: log != Log::Keys,
        allow_direct: true,
        allow_atomic_publish: true,
        ..Config::default()
    }
}

/// In what `found` differs from `wanted`. Old servers leave out what they do not know, without a word, and that shows here too.
pub(crate) fn differences(wanted: &Config, found: &Config) -> Vec<Difference> {
    use Change::{Impossible, Possible};
    let mut all = Vec::new();
    let mut compare = |setting, change, wanted: &dyn fmt::Debug, found: &dyn fmt::Debug| {
        let (wanted, found) = (format!("{wanted:?}"), format!("{found:?}"));
        if wanted != found {
            all.push(Difference { setting, wanted, found, change });
        }
    };
    compare("retention", Impossible, &wanted.retention, &found.retention);
    compare("storage", Impossible, &wanted.storage, &found.storage);
    compare("max_consumers", Impossible, &wanted.max_consumers, &found.max_consumers);
    compare(
        "deny_delete",
        if found.deny_delete { Impossible } else { Possible },
        &wanted.deny_delete,
        &found.deny_delete,
    );
    compare(
        "deny_purge",
        if found.deny_purge { Impossible } else { Possible },
        &wanted.deny_purge,
        &found.deny_purge,
    );
    compare("sealed", Impossible, &wanted.sealed, &found.sealed);
    compare("mirror", Impossible, &wanted.mirror.is_some(), &found.mirror.is_some());
    compare("persist_mode", Impossible, &persistence(wanted), &persistence(found));
    compare("subjects", Possible, &wanted.subjects, &found.subjects);
    compare("discard", Possible, &wanted.discard, &found.discard);
    compare("max_msgs", Possible, &wanted.max_messages, &found.max_messages);
    compare(
        "max_msgs_per_subject",
        Possible,
        &wanted.max_messages_per_subject,
        &found.max_messages_per_subject,
    );
    compare("max_bytes", Possible, &wanted.max_bytes, &found.max_bytes);
    compare("max_msg_size", Possible, &wanted.max_message_size, &found.max_message_size);
    compare("max_age", Possible, &wanted.max_age, &found.max_age);
    compare("num_replicas", Possible, &wanted.num_replicas, &found.num_replicas);
    compare("duplicate_window", Possible, &wanted.duplicate_window, &found.duplicate_window);
    compare("allow_direct", Possible, &wanted.allow_direct, &found.allow_direct);
    compare("allow_atomic", Possible, &wanted.allow_atomic_publish, &found.allow_atomic_publish);
    compare("allow_rollup_hdrs", Possible, &wanted.allow_rollup, &found.allow_rollup);
    compare("allow_msg_ttl", Impossible, &wanted.allow_message_ttl, &found.allow_message_ttl);
    compare("no_ack", Possible, &wanted.no_ack, &found.no_ack);
    compare("compression", Possible, &compression(wanted), &compression(found));
    compare("sources", Possible, &wanted.sources.is_some(), &found.sources.is_some());
    compare(
        "subject_transform",
        Possible,
        &wanted.subject_transform.is_some(),
        &found.subject_transform.is_some(),
    );
    all
}

fn persistence(config: &Config) -> PersistenceMode {
    config.persist_mode.unwrap_or_default()
}

fn compression(config: &Config) -> Compression {
    config.compression.clone().unwrap_or(Compression::None)
}

/// What was done to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It did not exist.
    Created,
    /// It was changed in these settings.
    Updated(Vec<Difference>),
    /// It was as wanted.
    Unchanged,
}

/// Why a stream is not as wanted after all.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It differs in settings that no update changes; nothing was done to it.
    #[error(
        "the stream {log} cannot be changed to what is wanted: {}; export it, and make it anew",
        list(differences)
    )]
    Fixed {
        /// The log.
        log: Log,
        /// The settings in question.
        differences: Vec<Difference>,
    },
    /// The server did not do it, or did not say so.
    #[error("cannot apply the stream {log}; applying again is safe")]
    Server {
        /// The log.
        log: Log,
        /// Why.
        #[source]
        source: Source,
    },
    /// The server took the configuration and keeps another.
    #[error("the server does not keep the stream {log} as wanted: {}", list(differences))]
    NotKept {
        /// The log.
        log: Log,
        /// In what.
        differences: Vec<Difference>,
    },
}

/// Creates the streams that do not exist and updates those that differ; answers what was done, in the order of the logs.
/// Twice changes nothing; interrupted, the next call goes on.
///
/// Only on an operator's word, and never to mend a stream that was there yesterday: a server started with a wrong encryption key
/// or another directory says that a stream does not exist, and creating it then deletes its data.
pub async fn apply_streams(
    client: &async_nats::Client,
    replicas: Replicas,
) -> Result<Vec<(Log, Applied)>, ApplyError> {
    let context = jetstream::new(client.clone());
    let mut applied = Vec::new();
    for log in Log::kept().chain([Log::Auth]) {
        applied.push((log, apply(&context, log, replicas).await?));
    }
    Ok(applied)
}

async fn apply(context: &jetstream::Context, log: Log, replicas: Replicas) -> Result<Applied, ApplyError> {
    let failed = |source: Source| ApplyError::Server { log, source };
    let config = wanted(log, replicas);
    let Some(found) = look(context, log).await.map_err(failed)? else {
        let stream = context.create_stream(config.clone()).await.map_err(|error| failed(error.into()))?;
        return kept(log, &config, &stream.cached_info().config).map(|()| Applied::Created);
    };
    let (fixed, changeable): (Vec<_>, Vec<_>) = differences(&config, &found)
        .into_iter()
        .partition(|difference| difference.change == Change::Impossible);
    if !fixed.is_empty() {
        return Err(ApplyError::Fixed { log, differences: fixed });
    }
    if changeable.is_empty() {
        return Ok(Applied::Unchanged);
    }
    // What we have no opinion on, such as where the copies are placed, stays.
    let config = Config {
        placement: found.placement,
        metadata: found.metadata,
        description: found.description,
        ..config
    };
    let info = context.update_stream(&config).await.map_err(|error| failed(error.into()))?;
    kept(log, &config, &info.config).map(|()| Applied::Updated(changeable))
}

async fn look(context: &jetstream::Context, log: Log) -> Result<Option<Config>, Source> {
    match context.get_stream(log.to_string()).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(error.into()),
        },
    }
}

fn kept(log: Log, wanted: &Config, found: &Config) -> Result<(), ApplyError> {
    let differences = differences(wanted, found);
    if differences.is_empty() { Ok(()) } else { Err(ApplyError::NotKept { log, differences }) }
}

/// Whether a record of `log` can be what `filter` takes. The server refuses filters that are no subjects; to us they find nothing.
pub(crate) fn may_hold(log: Log, filter: &Filter) -> bool {
    let tokens: Vec<&str> = filter.as_str().split('.').collect();
    let is_token = |token: &&str| !token.is_empty() && !token.contains(char::is_whitespace);
    let is_subject = tokens.iter().all(is_token) && !tokens.iter().rev().skip(1).any(|token| *token == ">");
    is_subject && subjects(log).iter().any(|own| overlap(&own.split('.').collect::<Vec<_>>(), &tokens))
}

/// Whether some subject is taken by both.
fn overlap(a: &[&str], b: &[&str]) -> bool {
    match (a, b) {
        ([">"], [_, ..]) | ([_, ..], [">"]) => true,
        ([x, a @ ..], [y, b @ ..]) => (*x == "*" || *y == "*" || x == y) && overlap(a, b),
        ([], []) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_fits_no_subject_of_the_log_is_known_to_find_nothing() {
        for (text, expected) in [
            (">", true),
            ("evt.>", true),
            ("*.a.b.c", true),
            ("sys.registry", true),
            ("evt", false),
            ("key.>", false),
            ("", false),
            ("evt..a", false),
            ("evt.>.a", false),
            ("evt. .a", false),
        ] {
            assert_eq!(may_hold(Log::Events, &Filter::from_text(text)), expected, "{text:?}");
        }
    }

    #[test]
    fn a_stream_as_wanted_differs_in_nothing_and_another_in_what_is_named() {
        let config = wanted(Log::Events, Replicas(1));
        assert_eq!(differences(&config, &config), []);
        let other = Config { storage: StorageType::Memory, allow_atomic_publish: false, ..config.clone() };
        let found = differences(&config, &other);
        let named: Vec<_> = found.iter().map(|difference| (difference.setting, difference.change)).collect();
        assert_eq!(named, [("storage", Change::Impossible), ("allow_atomic", Change::Possible)]);
        assert_eq!(found[0].to_string(), "storage is Memory, wanted File");
    }
}
