//! The two clocks of the store: Unix seconds for what goes to disk, seconds since start for what does not.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Seconds since 1970; 0 if the clock stands before that.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Seconds of this process. Starts at 2, so that "checked at 0" is never lately.
pub(crate) fn process_s() -> u32 {
    START.elapsed().as_secs() as u32 + 2
}

/// Minutes of this process, going round after 45 days.
pub(crate) fn process_minute() -> u16 {
    (process_s() / 60) as u16
}
