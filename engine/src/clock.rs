//! The two clocks of the store: Unix seconds for what goes to disk, time since start for what does not.
//!
//! Nothing else of the engine asks what time it is, so that a simulation can say it.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Seconds since 1970; 0 if the clock stands before that.
pub(crate) fn unix_s() -> u64 {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return simulated::UNIX_S_AT_START + now.as_secs();
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Time since the start of this process.
pub(crate) fn elapsed() -> Duration {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    START.elapsed()
}

/// Seconds of this process. Starts at 2, so that "checked at 0" is never lately.
pub(crate) fn process_s() -> u32 {
    elapsed().as_secs() as u32 + 2
}

/// Minutes of this process, going round after 45 days.
pub(crate) fn process_minute() -> u16 {
    (process_s() / 60) as u16
}

/// Time as a simulation has it, on its own thread only.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;
    use std::time::Duration;

    pub(super) const UNIX_S_AT_START: u64 = 1_700_000_000;

    thread_local! {
        static NOW: Cell<Option<Duration>> = const { Cell::new(None) };
    }

    pub(super) fn now() -> Option<Duration> {
        NOW.get()
    }

    /// What the clocks of this thread say from now on; `None`: what the machine says.
    pub(crate) fn set(now: Option<Duration>) {
        NOW.set(now);
    }
}
