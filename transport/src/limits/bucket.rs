//! So many bytes in a second. Pure: the clock is handed in.

use std::time::{Duration, Instant};

/// What may be sent at once after a rest, as a time at the full rate.
const BURST: Duration = Duration::from_millis(50);

/// A bucket of tokens, of which each is a byte. Whoever takes gets his turn in order; the first one may go at once if
/// nothing is owed, however much he takes, and the next one waits for what he took. So any size fits, and the rate is
/// right in the long run.
#[derive(Debug)]
pub(super) struct Bucket {
    /// 0: as fast as it goes.
    bytes_per_s: u64,
    /// Bytes that were taken, since the beginning.
    taken: u64,
    /// Bytes that time has paid for, since the beginning; ahead of `taken` by at most a burst.
    paid: u64,
    /// Up to when.
    paid_at: Instant,
}

/// A turn: it has come when all that was taken before is paid for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turn(u64);

impl Bucket {
    pub(super) fn new(bytes_per_s: u64, now: Instant) -> Self {
        Self { bytes_per_s, taken: 0, paid: 0, paid_at: now }
    }

    pub(super) fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }

    /// From now on another rate. What is owed is paid at it.
    pub(super) fn set(&mut self, bytes_per_s: u64, now: Instant) {
        self.pay(now);
        self.bytes_per_s = bytes_per_s;
    }

    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> Turn {
        self.pay(now);
        let turn = Turn(self.taken);
        self.taken = self.taken.saturating_add(bytes);
        turn
    }

    /// How long the turn is still to come; `None` when it has.
    pub(super) fn wait(&mut self, turn: Turn, now: Instant) -> Option<Duration> {
        self.pay(now);
        let owed = turn.0.saturating_sub(self.paid);
        (owed > 0 && self.bytes_per_s > 0).then(|| self.time_of(owed))
    }

    fn pay(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.paid_at);
        if self.bytes_per_s == 0 {
            (self.paid, self.paid_at) = (self.taken, now);
            return;
        }
        let bytes = passed.as_nanos() * u128::from(self.bytes_per_s) / 1_000_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let burst = u128::from(self.bytes_per_s) * BURST.as_nanos() / 1_000_000_000;
        let most = self.taken.saturating_add(u64::try_from(burst).unwrap_or(u64::MAX));
        if self.paid.saturating_add(bytes) >= most {
            (self.paid, self.paid_at) = (most, now);
        } else if bytes > 0 {
            self.paid += bytes;
            // What is no whole byte yet counts the next time.
            self.paid_at += self.time_of(bytes);
        }
    }

    /// Rounded down; a nanosecond at least, so that who waits for it does not come back at once.
    fn time_of(&self, bytes: u64) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    proptest! {
        /// However it is taken, no more goes than the rate, a burst and one taking allow, and no less when there is always somebody who
        /// waits.
        #[test]
        fn the_rate_is_kept(rate in 1..1_000_000_000_u64, takings in prop::collection::vec(1..5_000_000_u64, 1..60)) {
            let start = Instant::now();
            let (mut bucket, mut now, mut gone) = (Bucket::new(rate, start), start, 0_u64);
            for bytes in &takings {
                let turn = bucket.take(*bytes, now);
                let mut waits = 0;
                while let Some(wait) = bucket.wait(turn, now) {
                    now += wait;
                    waits += 1;
                    prop_assert!(waits <= 3, "its turn comes when it was said to");
                }
                let passed = (now - start).as_secs_f64();
                let allowed = rate as f64 * (passed + BURST.as_secs_f64());
                prop_assert!(gone as f64 <= allowed * 1.000_001 + 2.0, "{gone} of {allowed}");
                gone += bytes;
            }
            let before_last = gone - takings.last().unwrap();
            let passed = (now - start).as_secs_f64();
            prop_assert!(passed <= before_last as f64 / rate as f64 * 1.000_001 + 1e-6, "{passed} s");
        }
    }

    #[test]
    fn turns_come_in_order_and_a_rest_gives_a_burst_and_no_more() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1000, now);
        let turns: Vec<_> = (0..3).map(|_| bucket.take(500, now)).collect();
        let waits: Vec<_> = turns.iter().map(|turn| bucket.wait(*turn, now)).collect();
        assert_eq!(waits, [None, Some(SECOND / 2), Some(SECOND)]);
        assert_eq!(bucket.wait(turns[1], now + SECOND / 2), None);
        // An hour later: 50 bytes, and not 3.6 million.
        let later = now + 3600 * SECOND;
        let turns: Vec<_> = [50, 100, 1].iter().map(|bytes| bucket.take(*bytes, later)).collect();
        let waits: Vec<_> = turns.iter().map(|turn| bucket.wait(*turn, later)).collect();
        assert_eq!(waits, [None, None, Some(SECOND / 10)]);
    }

    #[test]
    fn a_new_rate_counts_at_once_for_those_who_wait() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10, now);
        bucket.take(1000, now);
        let turn = bucket.take(1, now);
        assert_eq!(bucket.wait(turn, now), Some(100 * SECOND));
        bucket.set(1000, now);
        assert_eq!(bucket.wait(turn, now), Some(SECOND));
        bucket.set(0, now);
        assert_eq!(bucket.wait(turn, now), None);
        // And none that was, when there is one again.
        bucket.take(u64::MAX / 4, now);
        bucket.set(1000, now);
        let next = bucket.take(1, now);
        assert_eq!(bucket.wait(next, now), None);
    }

    #[test]
    fn a_clock_that_stands_still_or_is_behind_is_no_harm() {
        let now = Instant::now() + SECOND;
        let mut bucket = Bucket::new(1000, now);
        bucket.take(1000, now);
        let turn = bucket.take(1, now - SECOND / 2);
        assert_eq!(bucket.wait(turn, now - SECOND / 2), Some(SECOND));
    }
}
