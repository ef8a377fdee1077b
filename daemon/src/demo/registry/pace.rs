//! The token bucket that shapes all bodies together, as a pure function of the time it is told.

use std::time::{Duration, Instant};

/// What may go out at once after idling, in time at the configured rate: enough to even out timer ticks of
/// a millisecond, too little to show in a rate measured over a second.
const BURST: Duration = Duration::from_millis(5);

/// Hands out times of departure such that the sum over all connections keeps the rate.
///
/// This is the bucket in its virtual-time form (GCRA, ITU-T I.371): instead of a number of tokens it keeps
/// the time at which the bucket would be even.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_s: f64,
    even_at: Option<Instant>,
}

impl Pace {
    /// A rate of 0 counts as 1 byte per second: slow, but without a division by zero.
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1) as f64, even_at: None }
    }

    /// Reserves `bytes` and says when they may leave.
    pub(super) fn reserve(&mut self, bytes: u64, now: Instant) -> Instant {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = self.even_at.map_or(earliest, |even_at| even_at.max(earliest));
        let end = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        self.even_at = Some(end);
        end.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_rate_under_load() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000_000);
        let last = (0..100).map(|_| pace.reserve(10_000, start)).last().unwrap();
        assert_eq!(last - start, Duration::from_secs(1) - BURST);
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000_000);
        assert_eq!(pace.reserve(1000, start), start, "the burst");
        let later = start + Duration::from_secs(3600);
        assert_eq!(pace.reserve(5000, later), later, "the burst again");
        assert_eq!(pace.reserve(1000, later) - later, Duration::from_millis(1), "and no more");
    }
}
