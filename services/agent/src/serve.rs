//! One HTTP/2 session: the routes and who answers them.

use std::{convert::Infallible, sync::Arc};

use hyper::{HeaderMap, Method, Request, body::Incoming, header, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use omnirun_agent_api::{Health, Stage, route, window};
use tokio::io::DuplexStream;

use crate::{
    answer::{Answer, Handled, No, json, json_bytes, nothing, parse, read, refusal, stream},
    barrier::Guest,
    code,
    command::{self, Framing},
    file, metrics,
};

/// Serves one connection to its end.
pub async fn session(host: DuplexStream, guest: Arc<Guest>) {
    let service = service_fn(move |request| {
        let guest = guest.clone();
        async move { Ok::<_, Infallible>(answer(guest, request).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(window::STREAMS)
        .initial_stream_window_size(window::STREAM)
        .initial_connection_window_size(window::SESSION)
        .max_send_buf_size(window::STREAM as usize)
        .serve_connection(TokioIo::new(host), service);
    // A session ends when the host goes away, in whatever way; there is nobody to tell.
    let _ = served.await;
}

async fn answer(guest: Arc<Guest>, request: Request<Incoming>) -> Answer {
    route(guest, request).await.unwrap_or_else(refusal)
}

async fn route(guest: Arc<Guest>, request: Request<Incoming>) -> Handled {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    match (method.as_str(), path.as_str()) {
        ("GET", route::HEALTH) => {
            return Ok(json(&Health { stage: guest.stage(), version: env!("CARGO_PKG_VERSION").to_owned() }));
        }
        ("POST", route::PERSONALISE) => return Ok(json(&guest.personalise(parse(&read(body).await?)?)?)),
        ("POST", route::WARM) if guest.stage() == Stage::Barrier => {
            code::warm().await?;
            return Ok(nothing());
        }
        _ if guest.stage() == Stage::Barrier => {
            return Err(No::new(
                hyper::StatusCode::CONFLICT,
                "not_ready",
                "the guest has not been personalised",
            ));
        }
        _ => {}
    }
    if path == route::FILES || path.starts_with("/files/") {
        return file::route(&method, &path, parts.uri.query(), body).await;
    }
    match (method.as_str(), path.as_str()) {
        ("POST", route::ENVS) => {
            let wish: omnirun_agent_api::SetEnvs = parse(&read(body).await?)?;
            guest.set_envs(wish.envs)?;
            Ok(nothing())
        }
        ("POST", route::CLOCK) => {
            let wish: omnirun_agent_api::SetClock = parse(&read(body).await?)?;
            crate::barrier::set_clock(wish.now)?;
            Ok(nothing())
        }
        ("GET", route::METRICS) => Ok(json(&metrics::read()?)),
        ("POST", route::CODE) => {
            let body = read(body).await?;
            let work = code::run_code(guest.clone(), body.clone());
            Ok(json_bytes(guest.repeats.once(repeat_key(&parts.headers)?, body, work).await?))
        }
        ("POST", route::COMMANDS) => {
            let body = read(body).await?;
            let work = code::start_command(guest.clone(), body.clone());
            Ok(json_bytes(guest.repeats.once(repeat_key(&parts.headers)?, body, work).await?))
        }
        ("GET", route::COMMANDS) => Ok(json(&guest.commands.list())),
        _ => one_command(&guest, &method, &path, &parts.headers, body).await,
    }
}

/// `/commands/{pid}` and below.
async fn one_command(
    guest: &Guest,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: Incoming,
) -> Handled {
    let unknown = No::not_found("the agent has no such route");
    let Some(rest) = path.strip_prefix("/commands/") else { return Err(unknown) };
    let (pid, verb) = rest.split_once('/').unwrap_or((rest, ""));
    match (method.as_str(), verb) {
        ("GET", "") => code::show(guest, pid),
        ("DELETE", "") => code::kill(guest, pid),
        ("POST", "stdin") => code::write_stdin(guest, pid, &read(body).await?).await,
        ("GET", "stream") => {
            let command = guest.commands.get(pid)?;
            let wants_events = headers
                .get(header::ACCEPT)
                .is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"));
            Ok(if wants_events {
                stream("text/event-stream", command::stream(command, Framing::Events))
            } else {
                stream("application/x-ndjson", command::stream(command, Framing::Lines))
            })
        }
        _ => Err(unknown),
    }
}

fn repeat_key(headers: &HeaderMap) -> Result<Option<String>, No> {
    let Some(key) = headers.get(route::IDEMPOTENCY_KEY) else { return Ok(None) };
    let bad = No::invalid("bad_idempotency_key", "the idempotency key is not 1 to 255 letters, digits and -");
    key.to_str().map(|key| Some(key.to_owned())).map_err(|_| bad)
}
