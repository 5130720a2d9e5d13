//! Relaying a request to the agent and its answer back, both bodies as streams. What is relayed is never looked at.

use http_body_util::BodyExt;
use hyper::{HeaderMap, Request, Response, StatusCode, body::Incoming, header, http::request::Parts};
use omnirun_agent_api::route;
use omnirun_vmm_api::owner::{AGENT, Stage};

use crate::{
    answer::{Handled, No},
    owner::Owner,
};

/// Headers that pass; the others are between the two ends of one connection.
const PASSING: [&str; 5] =
    ["accept", "content-type", "content-length", "content-disposition", route::IDEMPOTENCY_KEY];

/// Answers a request under [`AGENT`].
pub async fn relay(owner: &Owner, parts: Parts, body: Incoming) -> Handled {
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let path = path.strip_prefix(AGENT).unwrap_or("");
    if matches!(parts.uri.path().strip_prefix(AGENT), Some(route::PERSONALISE | route::WARM | route::CLOCK)) {
        return Err(No::new(StatusCode::NOT_FOUND, "not_found", "that route is for the owner alone"));
    }
    let agent = {
        let life = owner.life();
        match life.stage {
            Stage::Claimed => life.agent.clone(),
            Stage::Paused => return Err(No::conflict("paused", "the sandbox is paused")),
            Stage::Spare | Stage::Starting | Stage::Ready => {
                return Err(No::conflict("not_claimed", "no sandbox has this guest"));
            }
            Stage::Ending => None,
        }
    };
    let gone = No::new(StatusCode::BAD_GATEWAY, "guest_gone", "the guest has ended");
    let Some(agent) = agent else { return Err(gone) };
    let mut request = Request::new(body.boxed_unsync());
    *request.method_mut() = parts.method;
    *request.uri_mut() = format!("http://agent{path}").parse().map_err(|_| {
        No::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_request", "the path is not one of the agent's")
    })?;
    *request.headers_mut() = passing(&parts.headers);
    let answer = agent.send(request).await.map_err(|_| gone)?;
    let (head, body) = answer.into_parts();
    let mut relayed = Response::new(body.boxed_unsync());
    *relayed.status_mut() = head.status;
    *relayed.headers_mut() = passing(&head.headers);
    relayed.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(relayed)
}

/// Those headers that pass.
pub fn passing(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in PASSING {
        if let Some(value) = headers.get(name) {
            passed.insert(header::HeaderName::from_static(name), value.clone());
        }
    }
    passed
}
