//! The guest's wall clock as messages carry it.

use std::time::{SystemTime, UNIX_EPOCH};

use omnirun_agent_api::{Timestamp, UnixMillis};

/// The wall clock. A clock before 1970 reads as 1970: users may set it to anything.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The wall clock as users see it.
pub fn stamp() -> Timestamp {
    Timestamp::from(now())
}
