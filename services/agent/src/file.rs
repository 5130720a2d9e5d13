//! The routes for files of the guest.

mod entry;
mod open;
mod path;
mod transfer;

use bytes::Bytes;
use hyper::{Method, StatusCode, body::Incoming};
use omnirun_agent_api::{Exists, Place, Rename, WriteFile, route};

pub use path::resolve;

use crate::{
    answer::{Handled, No, json, nothing, parse, read},
    user,
};
use path::Query;

/// Answers a request under `/files`. The file system is the guest's own and may be slow, so what walks or writes it
/// runs on threads that may block.
pub async fn route(method: &Method, path: &str, query: Option<&str>, body: Incoming) -> Handled {
    match (method.as_str(), path) {
        ("PUT", route::FILES_UPLOAD) => return transfer::upload(Query::parse(query)?, body).await,
        ("GET", route::FILES_DOWNLOAD) => return transfer::download(Query::parse(query)?).await,
        _ => {}
    }
    let (method, path) = (method.clone(), path.to_owned());
    let query = query.map(str::to_owned);
    let body = read(body).await?;
    blocking(move || small(&method, &path, query.as_deref(), &body)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, No> + Send + 'static) -> Result<T, No> {
    let failed = No::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the agent failed");
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(failed))
}

fn small(method: &Method, path: &str, query: Option<&str>, body: &Bytes) -> Handled {
    match (method.as_str(), path) {
        ("GET", route::FILES) => Ok(json(&entry::content(&Query::parse(query)?.resolved()?)?)),
        ("POST", route::FILES) => Ok(json(&write(parse(body)?)?)),
        ("DELETE", route::FILES) => {
            entry::remove(&Query::parse(query)?.resolved()?)?;
            Ok(nothing())
        }
        ("POST", route::FILES_BATCH) => {
            let files: Vec<WriteFile> = parse(body)?;
            Ok(json(&files.into_iter().map(write).collect::<Result<Vec<_>, _>>()?))
        }
        ("GET", route::FILES_LIST) => {
            let query = Query::parse(query)?;
            Ok(json(&entry::list(&query.resolved()?, query.depth)?))
        }
        ("GET", route::FILES_EXISTS) => {
            let exists = Query::parse(query)?.resolved()?.symlink_metadata().is_ok();
            Ok(json(&Exists { exists }))
        }
        ("GET", route::FILES_INFO) => Ok(json(&entry::of(&Query::parse(query)?.resolved()?)?)),
        ("POST", route::FILES_RENAME) => {
            let wish: Rename = parse(body)?;
            let user = user::find(wish.user.as_deref())?;
            let (from, to) =
                (resolve(&user, wish.old_path.expose())?, resolve(&user, wish.new_path.expose())?);
            std::fs::rename(from, &to)?;
            Ok(json(&entry::of(&to)?))
        }
        ("POST", route::FILES_MKDIR) => {
            let wish: Place = parse(body)?;
            let user = user::find(wish.user.as_deref())?;
            let at = resolve(&user, wish.path.expose())?;
            entry::make_directories(&user, &at)?;
            Ok(json(&entry::of(&at)?))
        }
        _ => Err(No::not_found("the agent has no such route")),
    }
}

fn write(wish: WriteFile) -> Result<omnirun_agent_api::Entry, No> {
    let user = user::find(wish.user.as_deref())?;
    let at = resolve(&user, wish.path.expose())?;
    let mut file = entry::create(&user, &at)?;
    std::io::Write::write_all(&mut file, wish.content.expose().as_bytes())?;
    Ok(entry::of(&at)?)
}
