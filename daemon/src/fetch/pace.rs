//! A limit in bytes per second, shared by all shards.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets bytes through at a rate. Whoever takes goes at once if nobody is in front, so a burst is one taking
/// long.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_s: AtomicU64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// A rate of zero counts as one byte per second.
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: AtomicU64::new(bytes_per_s.max(1)), free_at: Mutex::new(None) }
    }

    /// Another rate, for what asks from now on.
    pub(crate) fn set_rate(&self, bytes_per_s: u64) {
        self.bytes_per_s.store(bytes_per_s.max(1), Ordering::Relaxed);
    }

    /// Waits until `bytes` may pass.
    pub(crate) async fn take(&self, bytes: u64) {
        let start = self.schedule(Instant::now(), bytes);
        tokio::time::sleep_until(start).await;
    }

    /// When `bytes` may start, if they are asked for now.
    fn schedule(&self, now: Instant, bytes: u64) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.map_or(now, |free_at| free_at.max(now));
        let bytes_per_s = self.bytes_per_s.load(Ordering::Relaxed);
        *free_at = Some(start + Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64));
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(1000);
        let start = Instant::now();
        assert_eq!(pace.schedule(start, 500), start);
        assert_eq!(pace.schedule(start, 2000), start + Duration::from_millis(500));
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.schedule(later, 1), later);
    }

    #[test]
    fn another_rate_holds_from_the_next_one_on() {
        let pace = Pace::new(1000);
        let start = Instant::now();
        assert_eq!(pace.schedule(start, 1000), start);
        pace.set_rate(4000);
        assert_eq!(pace.schedule(start, 4000), start + Duration::from_secs(1));
        assert_eq!(pace.schedule(start, 1), start + Duration::from_secs(2));
    }
}
