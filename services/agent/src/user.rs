//! Users of the guest, from its own /etc/passwd.

use std::{fs, path::PathBuf};

use crate::answer::No;

/// Who commands run as and files belong to when a request names nobody.
pub const DEFAULT: &str = "user";

/// A user of the guest.
#[derive(Debug, Clone)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

/// Looks a user up, the default one for none.
pub fn find(name: Option<&str>) -> Result<User, No> {
    let name = name.unwrap_or(DEFAULT);
    let table = fs::read_to_string("/etc/passwd")?;
    lookup(&table, name).ok_or(No::invalid("unknown_user", "the guest has no such user"))
}

/// passwd(5): name:password:uid:gid:comment:home:shell.
fn lookup(table: &str, name: &str) -> Option<User> {
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        if fields.len() != 7 || fields[0] != name {
            return None;
        }
        Some(User {
            name: name.to_owned(),
            uid: fields[2].parse().ok()?,
            gid: fields[3].parse().ok()?,
            home: PathBuf::from(fields[5]),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let table = "root:x:0:0:root:/root:/bin/bash\nbroken\nuser:x:1000:1001::/home/user:/bin/bash\n";
        let user = lookup(table, "user").expect("it is in the table");
        assert_eq!((user.uid, user.gid, user.home), (1000, 1001, PathBuf::from("/home/user")));
        assert!(lookup(table, "use").is_none());
        assert!(lookup(table, "broken").is_none());
    }
}
