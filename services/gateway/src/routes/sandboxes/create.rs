//! Asking for a sandbox, and waiting until it runs.
//!
//! A client that goes away while it waits, without an `Idempotency-Key` by which it could ask for the same sandbox again, will never know
//! that sandbox's id: it is stopped. With a key it is kept for the retry.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use omnirun_agent_api::{Private, SetEnvs, route};
use omnirun_commands_api::Outcome;
use omnirun_commands_api::command::{Command, Personal, SandboxWish};
use omnirun_events::envelope::Actor;
use omnirun_events::id::{AccountId, SandboxId};
use omnirun_events::sandbox::{FailReason, Network};
use omnirun_events::unit::{Mebibytes, Millis, Seconds, Timestamp, Vcpus};
use omnirun_projections::sandboxes::{Sandbox, State as Life};
use omnirun_worker_api::capability::Verb;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::metadata::Metadata;
use crate::ask::{Wish, unexpected};
use crate::auth::Caller;
use crate::data_path::{GuestRequest, sandbox_ended};
use crate::error::ApiError;
use crate::extract::{Accepted, Body, BodyKind};
use crate::gateway::{App, Shared};

/// Seconds that a sandbox lives when its maker does not say.
const TIMEOUT_DEFAULT: Seconds = Seconds(300);
/// How long after the deadline of a request its failure may still be on its way.
const DEADLINE_GRACE: Millis = Millis(5_000);
/// Environment variables of one request, at most.
const ENVS_MAX: usize = 256;

/// A field that this build does not have. Of its value only this is kept: whether it asks for anything.
#[derive(Default, Clone, Copy)]
enum NotYet {
    #[default]
    Default,
    Asked,
}

impl<'de> Deserialize<'de> for NotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde_json::Value;
        fn asks(value: &Value) -> bool {
            match value {
                Value::Null | Value::Bool(false) => false,
                Value::Array(values) => values.iter().any(asks),
                Value::Object(fields) => fields.values().any(asks),
                Value::String(text) => !text.is_empty(),
                Value::Bool(true) | Value::Number(_) => true,
            }
        }
        Ok(if asks(&Value::deserialize(deserializer)?) { Self::Asked } else { Self::Default })
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewSandbox {
    /// Name of the template; default python-3.11.
    template: Option<String>,
    /// The same under its other name.
    #[serde(rename = "templateID")]
    template_id: Option<String>,
    /// Seconds from its start; default 300, 0 = the plan's longest.
    timeout: Option<u32>,
    #[serde(rename = "memoryMB")]
    memory_mb: Option<u32>,
    cpu_count: Option<u8>,
    /// Environment of everything that runs in it. Goes to the guest and nowhere else.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    env_vars: BTreeMap<String, Private>,
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    metadata: Metadata,
    /// A way out to the network; not in this build.
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    internet: NotYet,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    auto_pause: NotYet,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    network: NotYet,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    secure: NotYet,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    mask_request_host: NotYet,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    vault_inject: NotYet,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    e2ee: NotYet,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    client_public_key: NotYet,
}

impl Accepted for NewSandbox {
    const KIND: BodyKind = BodyKind::Control;
}

impl NewSandbox {
    /// The wish, and the environment that goes another way.
    fn check(self, default: &str) -> Result<(SandboxWish, BTreeMap<String, Private>), ApiError> {
        self.refuse_unsupported()?;
        let template = match (self.template, self.template_id) {
            (Some(one), Some(other)) if one != other => {
                return Err(ApiError::invalid("template and templateID name different templates."));
            }
            (one, other) => one.or(other).unwrap_or_else(|| default.to_owned()),
        };
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if !(1..=64).contains(&template.len()) || !template.bytes().all(is_name) {
            return Err(ApiError::invalid(
                "template has to be 1 to 64 lower-case letters, digits, dots, hyphens and underscores.",
            ));
        }
        if self.cpu_count == Some(0) || self.memory_mb == Some(0) {
            return Err(ApiError::invalid("cpuCount and memoryMB have to be above 0."));
        }
        envs_are_good(&self.env_vars)?;
        let wish = SandboxWish {
            template,
            vcpus: self.cpu_count.map(Vcpus),
            memory: self.memory_mb.map(Mebibytes),
            timeout: self.timeout.map_or(TIMEOUT_DEFAULT, Seconds),
            network: Network::Off,
            metadata: self.metadata.to_json()?.map(Personal::new),
        };
        Ok((wish, self.env_vars))
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let fields = [
            (self.internet, "internet is not supported by this build."),
            (self.auto_pause, "autoPause is not supported by this build."),
            (self.network, "network is not supported by this build."),
            (self.secure, "secure is not supported by this build."),
            (self.mask_request_host, "maskRequestHost is not supported by this build."),
            (self.vault_inject, "vaultInject is not supported by this build."),
            (self.e2ee, "e2ee is not supported by this build."),
            (self.client_public_key, "clientPublicKey is not supported by this build."),
        ];
        let asked = fields.into_iter().find(|(field, _)| matches!(field, NotYet::Asked));
        asked.map_or(Ok(()), |(_, message)| Err(ApiError::not_supported(message)))
    }
}

/// Whether these can be environment variables: POSIX names, and no NUL, which would end the value.
pub(in crate::routes) fn envs_are_good(envs: &BTreeMap<String, Private>) -> Result<(), ApiError> {
    let is_name = |name: &str| {
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        starts && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let good = |(name, value): (&String, &Private)| {
        is_name(name) && name.len() <= 256 && !value.expose().contains('\0')
    };
    if envs.len() > ENVS_MAX || !envs.iter().all(good) {
        return Err(ApiError::invalid(
            "environment variables have to be at most 256, with names of letters, digits and underscores, and values without NUL.",
        ));
    }
    Ok(())
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedSandbox {
    #[serde(rename = "sandboxID")]
    #[schema(value_type = String)]
    id: SandboxId,
    #[serde(rename = "templateID")]
    template: String,
    state: &'static str,
    #[serde(rename = "startedAt")]
    started_at: String,
    #[serde(rename = "endAt")]
    end_at: Option<String>,
}

/// Makes a sandbox; answers when it runs.
#[utoipa::path(post, path = "/sandboxes", tag = "sandboxes", request_body = NewSandbox, responses((status = 201, body = CreatedSandbox)))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body<NewSandbox>,
) -> Result<(StatusCode, Json<CreatedSandbox>), ApiError> {
    let (wanted, envs) = body.check(&app.config.default_template)?;
    let wish = app.wish(caller.account.as_bytes(), &headers)?;
    // A task of its own: when the client goes away before the answer is here, what comes is dropped there, and dropping ends it.
    let asking = tokio::spawn(request(app.clone(), caller.account, wish, wanted));
    let (kept, deadline) = asking.await.map_err(|_| ApiError::internal())??;
    let id = kept.sandbox;
    let sandbox = wait(&app, id, deadline).await?;
    if !envs.is_empty() {
        prepare(&app, caller.account, id, envs).await?;
    }
    kept.release();
    let created = CreatedSandbox {
        id,
        template: sandbox.template.clone(),
        state: sandbox.state.as_str(),
        started_at: sandbox.started_at.unwrap_or(sandbox.requested_at).rfc3339(),
        end_at: sandbox.end_at.map(Timestamp::rfc3339),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn request(
    app: App,
    account: AccountId,
    wish: Wish,
    wanted: SandboxWish,
) -> Result<(Abandoned, Timestamp), ApiError> {
    let command = Command::RequestSandbox { account, wish: wanted };
    match app.ask(wish, Actor::Account(account), command).await? {
        Outcome::SandboxRequested { sandbox, deadline } => {
            let ends = matches!(wish, Wish::Unnamed(_));
            Ok((Abandoned { app: ends.then_some(app), account, sandbox }, deadline))
        }
        _ => Err(unexpected()),
    }
}

/// Waits until the sandbox runs, or never will.
async fn wait(app: &Shared, id: SandboxId, deadline: Timestamp) -> Result<Sandbox, ApiError> {
    let within = deadline.after(DEADLINE_GRACE).since(app.now()).as_duration();
    let settled = app.directory.until(within, |directory| {
        let sandbox = directory.sandboxes.get(id)?;
        let is_settled = !matches!(sandbox.state, Life::Requested | Life::Starting);
        is_settled.then(|| sandbox.clone())
    });
    let sandbox = settled.await.map_err(|_| no_capacity())?;
    match sandbox.state {
        // A repeated wish finds what has become of the sandbox since.
        Life::Running | Life::Pausing | Life::Paused => Ok(sandbox),
        Life::Failed(FailReason::NoCapacity) => Err(no_capacity()),
        Life::Failed(FailReason::BootFailed) => {
            Err(ApiError::unavailable("boot_failed", "The sandbox could not be started; try again."))
        }
        _ => Err(sandbox_ended()),
    }
}

const fn no_capacity() -> ApiError {
    let mut error =
        ApiError::unavailable("no_capacity", "No host could take the sandbox in time; try again.");
    error.retry_after = Some(Seconds(5));
    error
}

/// Hands the environment to the guest, before anybody can run something in it.
async fn prepare(
    app: &Shared,
    account: AccountId,
    id: SandboxId,
    envs: BTreeMap<String, Private>,
) -> Result<(), ApiError> {
    let target = app.target_of(account, id)?;
    let mut request = GuestRequest::new(Method::POST, route::ENVS).with_json(&SetEnvs { envs });
    request.verb = Verb::Prepare;
    let answer = app.data_path.request(&target, request).await?;
    if answer.status().is_success() {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::BAD_GATEWAY, "prepare_failed", "The sandbox did not take its environment."))
}

/// A sandbox that nobody knows of yet. Dropped before [`Self::release`], it is stopped, unless its wish has a name.
struct Abandoned {
    app: Option<App>,
    account: AccountId,
    sandbox: SandboxId,
}

impl Abandoned {
    fn release(mut self) {
        self.app = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let (Some(app), Ok(runtime)) = (self.app.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (account, sandbox) = (self.account, self.sandbox);
        let state =
            app.directory.view(|directory, _| directory.sandboxes.get(sandbox).map(|found| found.state));
        if state.is_some_and(Life::is_final) {
            return;
        }
        runtime.spawn(async move {
            let command = Command::StopSandbox { account, sandbox };
            let Ok(wish) = app.wish(account.as_bytes(), &HeaderMap::new()) else { return };
            if app.ask(wish, Actor::Account(account), command).await.is_err() {
                // It still ends by its own time-out, or fails by its deadline.
                tracing::warn!(%sandbox, "an abandoned sandbox could not be stopped");
            }
        });
    }
}
