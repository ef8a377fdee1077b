//! How fast the scrub reads: a rate, and never more than half of its time. Pure.
//!
//! The rate is what the operator grants. On a disk that is slower than that, or busy with readers, a scrub at its rate
//! would always have a read under way; so it rests after each read for as long as the read took.

use std::time::Duration;

/// Rests are so long at least, so that a thread that is far behind its rate does not sleep for each block.
const REST_MIN: Duration = Duration::from_micros(500);

/// When the next read may begin.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// By the clock of this process.
    free_at: Option<Duration>,
}

impl Pace {
    /// How long to rest after `bytes` that were read from `begun` to `ended`. Nothing is saved up: a read that came
    /// late by itself does not make the next ones come faster.
    pub(super) fn rest_after(
        &mut self,
        bytes: u64,
        bytes_per_s: u64,
        begun: Duration,
        ended: Duration,
    ) -> Duration {
        let granted = Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1) as f64);
        let free_at = self.free_at.map_or(begun, |free_at| free_at.max(begun)) + granted;
        let free_at = free_at.max(ended + (ended - begun));
        let rest = free_at.saturating_sub(ended);
        if rest < REST_MIN {
            self.free_at = Some(free_at);
            return Duration::ZERO;
        }
        self.free_at = None;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 256 << 10;
    const RATE: u64 = 32 << 20;

    /// Reads so many pieces that take `took` each; returns bytes per second.
    fn check(took: Duration, pieces: u64) -> f64 {
        let (mut pace, start) = (Pace::default(), Duration::from_secs(5));
        let mut now = start;
        for _ in 0..pieces {
            let ended = now + took;
            now = ended + pace.rest_after(PIECE, RATE, now, ended);
        }
        (pieces * PIECE) as f64 / (now - start).as_secs_f64()
    }

    #[test]
    fn a_quick_disk_is_read_at_the_rate() {
        for took in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(3)] {
            let rate = check(took, 1000);
            assert!((rate / RATE as f64 - 1.0).abs() < 0.01, "{rate} with reads of {took:?}");
        }
    }

    #[test]
    fn a_slow_disk_is_left_alone_for_half_of_the_time() {
        let took = Duration::from_millis(100);
        let rate = check(took, 100);
        let alone = PIECE as f64 / took.as_secs_f64();
        assert!((rate / alone - 0.5).abs() < 0.01, "{rate} of {alone}");
    }

    #[test]
    fn a_rate_above_the_clock_still_holds() {
        let (mut pace, start) = (Pace::default(), Duration::from_secs(5));
        let (mut now, mut rests) = (start, 0);
        for _ in 0..10_000 {
            let rest = pace.rest_after(4096, 1 << 30, now, now);
            rests += u32::from(!rest.is_zero());
            now += rest;
        }
        let rate = f64::from(10_000 * 4096) / (now - start).as_secs_f64();
        assert!((rate / f64::from(1 << 30) - 1.0).abs() < 0.02, "{rate}");
        assert!(rests < 100, "{rests} rests");
    }

    #[test]
    fn time_that_was_not_used_is_not_saved_up() {
        let (mut pace, start) = (Pace::default(), Duration::from_secs(5));
        pace.rest_after(PIECE, RATE, start, start);
        let later = start + Duration::from_secs(60);
        let granted = Duration::from_secs_f64(PIECE as f64 / RATE as f64);
        assert_eq!(pace.rest_after(PIECE, RATE, later, later), granted);
    }
}
