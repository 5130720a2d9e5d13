//! Which nats-servers can be trusted with the log.

/// A server that is too old, with what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "nats-server {found} is too old for an event log: before 2.12.15 and 2.14.4 it refuses valid batches, leaves the key file of an \
     encrypted store unsynced, or has no atomic batches and no sync_interval at all; install 2.12.15, 2.14.4 or newer (tested: 2.15.1)"
)]
pub struct TooOld {
    /// The version that the server gave.
    pub found: String,
}

/// Whether a server of this version, as its greeting says it, keeps what the log promises: 2.12.15 and later patches of 2.12,
/// 2.14.4 and everything later. A text that is no version is too old. A pre-release counts as the release before it.
pub fn check(version: &str) -> Result<(), TooOld> {
    let new_enough = parse(version).is_some_and(|found| {
        let is_long_term = matches!(found, (2, 12, _)) && found >= (2, 12, 15);
        is_long_term || found >= (2, 14, 4)
    });
    if new_enough { Ok(()) } else { Err(TooOld { found: version.to_owned() }) }
}

/// Major, minor and patch; one patch less for a pre-release such as `2.14.4-RC.1`.
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let (numbers, is_release) = match version.split_once(['-', '+']) {
        Some((numbers, _)) => (numbers, false),
        None => (version, true),
    };
    let mut parts = numbers.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    Some((major, minor, if is_release { patch } else { patch.saturating_sub(1) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_keep_the_promises_are_taken() {
        for version in ["2.12.15", "2.12.16", "2.14.4", "2.14.5-RC.1", "2.15.0", "2.15.1", "v2.15.1", "3.0.0"]
        {
            assert_eq!(check(version), Ok(()), "{version}");
        }
    }

    #[test]
    fn older_servers_are_refused_with_what_to_install() {
        for version in [
            "2.9.10",
            "2.11.12",
            "2.12.14",
            "2.12.15-RC.1",
            "2.13.99",
            "2.14.0",
            "2.14.3",
            "1.99.99",
            "",
            "2.15",
            "x",
        ] {
            let refused = check(version).expect_err(version);
            assert_eq!(refused.found, version);
            assert!(refused.to_string().contains("install 2.12.15, 2.14.4 or newer"), "{refused}");
        }
    }
}
