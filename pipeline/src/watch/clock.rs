//! Times as they stand in files: seconds since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// A time; 0 for one before 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time now.
pub(crate) fn now() -> u64 {
    seconds(SystemTime::now())
}
