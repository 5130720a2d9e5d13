//! A sandbox's metadata: the user's own names and values, sealed in the log and opened by the commands service alone.

use std::collections::BTreeMap;

use omnirun_commands_api::command::SealedField;
use omnirun_events::sandbox::METADATA_FIELD;
use omnirun_events::subject::SubjectKind;
use omnirun_projections::sandboxes::Sandbox;
use serde::{Deserialize, Serialize};

use crate::auth::Caller;
use crate::error::ApiError;
use crate::gateway::Shared;

/// Bytes of one sandbox's metadata as JSON, at most.
const BYTES_MAX: usize = 16 * 1024;

/// Names and values. Prints nothing of them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Metadata(pub BTreeMap<String, String>);

impl Metadata {
    /// The JSON that is sealed; none for no metadata.
    pub fn to_json(&self) -> Result<Option<String>, ApiError> {
        let text = serde_json::to_string(&self.0).expect("a map of texts always encodes");
        match text.len() {
            _ if self.0.is_empty() => Ok(None),
            0..=BYTES_MAX => Ok(Some(text)),
            _ => Err(ApiError::invalid("metadata has to be at most 16 KiB as JSON.")),
        }
    }
}

/// The metadata of the caller's sandboxes, in their order; empty where its key is destroyed. At most
/// [`omnirun_commands_api::command::FIELDS_MAX`] at once.
pub(super) async fn open(
    app: &Shared,
    caller: &Caller,
    sandboxes: &[Sandbox],
) -> Result<Vec<Metadata>, ApiError> {
    let field = |sandbox: &Sandbox| {
        let subject = SubjectKind::Admission(caller.account).into();
        let field = METADATA_FIELD.to_owned();
        sandbox.metadata.clone().map(|sealed| SealedField { subject, field, sealed })
    };
    let texts = app.open_fields(caller, sandboxes.iter().map(field).collect()).await?;
    let read =
        |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Ok(texts.into_iter().map(read).collect())
}

/// A filter on metadata: every pair has to be there.
#[derive(Default)]
pub(super) struct Wanted(Vec<(String, String)>);

impl Wanted {
    /// The filter `k:v[,k:v]`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let pair = |part: &str| part.split_once(':').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let pairs: Option<Vec<_>> = text.split(',').map(pair).collect();
        pairs.map(Self).ok_or(ApiError::invalid("metadata has to be k:v pairs with commas between them."))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.0.iter().all(|(key, value)| metadata.0.get(key) == Some(value))
    }
}
