//! Paths of the agent's HTTP/2 API, relative to the agent itself. A relay in front of it adds its own prefix.

/// `GET`: [`crate::Health`]. Answered in every stage.
pub const HEALTH: &str = "/health";
/// `POST` [`crate::Personalise`]: [`crate::Personalised`]. Once per guest; opens every route below.
pub const PERSONALISE: &str = "/personalise";
/// `POST`: 204. Only before personalise: runs the shell and the interpreters on nothing, so that a snapshot taken
/// afterwards has them in its page cache.
pub const WARM: &str = "/warm";
/// `POST` [`crate::SetClock`]: 204. For a guest that was paused: its clock stood still.
pub const CLOCK: &str = "/clock";
/// `POST` [`crate::SetEnvs`]: 204. Adds to the environment that every later command starts with.
pub const ENVS: &str = "/envs";
/// `GET`: [`crate::Metrics`].
pub const METRICS: &str = "/metrics";
/// `POST` [`crate::StartCommand`]: [`crate::Outcome`], or [`crate::Started`] in background. `GET`: all of them as
/// [`crate::CommandState`]. Under it `/{pid}` (`GET`, `DELETE`), `/{pid}/stdin` (`POST` [`crate::Stdin`]: 204) and
/// `/{pid}/stream` (`GET`: [`crate::StreamLine`], one JSON text a line, or as server-sent events when the request's
/// `Accept` is `text/event-stream`).
pub const COMMANDS: &str = "/commands";
/// `POST` [`crate::RunCode`]: [`crate::Outcome`].
pub const CODE: &str = "/code";
/// `GET ?path&user`: [`crate::Content`]. `POST` [`crate::WriteFile`]: [`crate::Entry`]. `DELETE ?path&user`: 204.
pub const FILES: &str = "/files";
/// `POST` a list of [`crate::WriteFile`]: a list of [`crate::Entry`].
pub const FILES_BATCH: &str = "/files/batch";
/// `PUT ?path&user`, the body being the file's bytes: [`crate::Entry`].
pub const FILES_UPLOAD: &str = "/files/upload";
/// `GET ?path&user`: the file's bytes.
pub const FILES_DOWNLOAD: &str = "/files/download";
/// `GET ?path&depth&user`: a list of [`crate::Entry`]. `depth` is 1 (the default) to 32.
pub const FILES_LIST: &str = "/files/list";
/// `GET ?path&user`: [`crate::Exists`].
pub const FILES_EXISTS: &str = "/files/exists";
/// `GET ?path&user`: [`crate::Entry`].
pub const FILES_INFO: &str = "/files/info";
/// `POST` [`crate::Rename`]: [`crate::Entry`].
pub const FILES_RENAME: &str = "/files/rename";
/// `POST` [`crate::Place`]: [`crate::Entry`]. Parents are made too; a directory that is there already is no error.
pub const FILES_MKDIR: &str = "/files/mkdir";

/// Header of `POST` on [`COMMANDS`] and [`CODE`]: the same key with the same body gives the first request's answer,
/// while that runs and for five minutes after; with another body it is refused with 409 `idempotency_key_reused`.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
