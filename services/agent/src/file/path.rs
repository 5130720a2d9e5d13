//! Paths and queries of requests about files.

use std::path::{Component, Path, PathBuf};

use crate::{
    answer::No,
    user::{self, User},
};

/// linux/limits.h PATH_MAX.
const PATH_BYTES_MAX: usize = 4096;
/// How deep a listing may go.
const DEPTH_MAX: u32 = 32;

const BAD_PATH: No =
    No::invalid("bad_path", "the path is empty, too long, or has a NUL character or a parent component");

/// The absolute path that a request's path stands for: relative ones are in the user's home.
pub fn resolve(user: &User, path: &str) -> Result<PathBuf, No> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return Err(BAD_PATH);
    }
    if Path::new(path).components().any(|component| component == Component::ParentDir) {
        return Err(BAD_PATH);
    }
    // components() drops `.` and doubled or trailing slashes.
    Ok(user.home.join(path).components().collect())
}

/// `?path&user&depth`.
pub struct Query {
    path: String,
    user: Option<String>,
    /// Levels of a listing.
    pub depth: u32,
}

impl Query {
    /// Reads a query; names that are not known are ignored.
    pub fn parse(query: Option<&str>) -> Result<Self, No> {
        let bad = No::invalid("bad_query", "the query is not path, user and depth in URL encoding");
        let mut parsed = Self { path: String::new(), user: None, depth: 1 };
        for pair in query.unwrap_or("").split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(value) = decode(value) else { return Err(bad) };
            match name {
                "path" => parsed.path = value,
                "user" => parsed.user = Some(value).filter(|user| !user.is_empty()),
                "depth" => match value.parse() {
                    Ok(depth @ 1..=DEPTH_MAX) => parsed.depth = depth,
                    _ => return Err(bad),
                },
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// The user that it names, or the default one.
    pub fn user(&self) -> Result<User, No> {
        user::find(self.user.as_deref())
    }

    /// Its absolute path.
    pub fn resolved(&self) -> Result<PathBuf, No> {
        resolve(&self.user()?, &self.path)
    }
}

/// Percent-decoding of a query value, `+` being a space; none when it is not UTF-8 or an escape is cut.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let [high, low] = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
                u8::try_from(high? * 16 + low?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User { name: "user".into(), uid: 1000, gid: 1000, home: PathBuf::from("/home/user") }
    }

    #[test]
    fn relative_paths_are_in_the_users_home() {
        for (path, resolved) in
            [("a", "/home/user/a"), ("./a//b/", "/home/user/a/b"), ("/etc/x", "/etc/x"), ("a..b", "/home/user/a..b")]
        {
            assert_eq!(resolve(&user(), path).ok(), Some(PathBuf::from(resolved)));
        }
    }

    #[test]
    fn paths_with_a_nul_or_a_parent_are_refused() {
        for path in ["", "..", "a/../b", "/..", "/etc/../root", "a\0b", &"a".repeat(4097)] {
            assert!(resolve(&user(), path).is_err());
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("path=%2Fa%20b+c%C3%A9&user=root&other=1&depth=3")).expect("it is well formed");
        assert_eq!((query.path.as_str(), query.user.as_deref(), query.depth), ("/a b cé", Some("root"), 3));
        for bad in ["path=%2", "path=%zz", "path=%ff", "depth=0", "depth=33", "depth=x"] {
            assert!(Query::parse(Some(bad)).is_err());
        }
    }
}
