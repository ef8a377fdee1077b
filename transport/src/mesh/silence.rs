//! Whether a node that owes an answer has gone silent: its process was killed, its machine is off, the way is cut.
//!
//! A QUIC connection whose other end is gone looks like one whose other end thinks: it is given up after
//! [`IDLE_TIMEOUT`](crate::lane::IDLE_TIMEOUT), and clients do not wait for so long. But who lives acknowledges what it
//! gets within milliseconds, however long its answer takes. So a connection on which this side has sent something that is to be
//! acknowledged, and on which nothing at all has come since, has nobody at its other end.
//!
//! Pure: the counts and the clock are handed in.

use std::time::{Duration, Instant};

use crate::lane::Traffic;

/// How long nothing may come. A node that lives and is kept from running for so long is found again at the next try.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(2);
/// How often it is looked.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What was seen of a connection while an answer is waited for.
#[derive(Debug)]
pub(super) struct Silence {
    seen: Traffic,
    /// When something was first seen to have been sent after what came last.
    owed_since: Option<Instant>,
}

impl Silence {
    /// From now on.
    pub(super) fn since(seen: Traffic) -> Self {
        Self { seen, owed_since: None }
    }

    /// Whether the other end has been silent for too long.
    pub(super) fn is_too_long(&mut self, now: Traffic, at: Instant) -> bool {
        if now.received != self.seen.received {
            // Which of the two was first is not known: what is lost is sent again, and seen then.
            (self.seen, self.owed_since) = (now, None);
            return false;
        }
        if now.sent != self.seen.sent {
            self.owed_since.get_or_insert(at);
        }
        self.owed_since.is_some_and(|since| at.saturating_duration_since(since) >= SILENT_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks in order, each with what had been received and sent by then; after which of them it is too long.
    fn silent_at(looks: &[(u64, u64)]) -> Option<usize> {
        let start = Instant::now();
        let mut silence = Silence::since(Traffic { received: 0, sent: 0 });
        let at = |number: usize| start + LOOK_EVERY * number as u32;
        looks.iter().enumerate().position(|(number, (received, sent))| {
            silence.is_too_long(Traffic { received: *received, sent: *sent }, at(number))
        })
    }

    const LOOKS: usize = (SILENT_FOR.as_millis() / LOOK_EVERY.as_millis()) as usize;

    #[test]
    fn who_acknowledges_may_think_as_long_as_it_likes() {
        let keeps_alive: Vec<_> = (0..100).map(|look| (1 + look / 20, 1 + look / 20)).collect();
        assert_eq!(silent_at(&keeps_alive), None);
    }

    #[test]
    fn nothing_is_owed_by_whom_nothing_was_sent() {
        assert_eq!(silent_at(&[(0, 0); 100]), None);
        // Its last word was acknowledged, which is not acknowledged in turn.
        assert_eq!(silent_at(&[(9, 4); 100]), None);
    }

    #[test]
    fn a_request_and_its_repeats_without_a_word_are_the_end() {
        assert_eq!(silent_at(&[(0, 1); 100]), Some(LOOKS));
        let repeats: Vec<_> = (0..100).map(|look| (0, 1 + look)).collect();
        assert_eq!(silent_at(&repeats), Some(LOOKS));
        let after_a_word: Vec<_> = [(5, 5)].into_iter().chain((0..100).map(|look| (5, 6 + look))).collect();
        assert_eq!(silent_at(&after_a_word), Some(LOOKS + 1));
    }

    #[test]
    fn one_word_begins_it_anew() {
        let mut looks = vec![(0, 1); LOOKS];
        looks.push((1, 2));
        looks.extend([(1, 3); 100]);
        assert_eq!(silent_at(&looks), Some(2 * LOOKS + 1));
    }
}
