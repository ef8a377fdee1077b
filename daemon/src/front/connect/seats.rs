//! How many connections may be opened by CONNECT: a part of all, so that clients that keep theirs leave room for the
//! others'.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::metrics::Tunnels;

/// Of one node, whatever its limits allow. Each holds two sockets, and up to 128 KiB while bytes move.
const SEATS_MAX: usize = 1024;
/// The least, where limits are tight.
const SEATS_MIN: usize = 16;

/// The seats of a node.
#[derive(Debug)]
pub(crate) struct Seats {
    max: usize,
    taken: AtomicUsize,
    counts: Arc<Tunnels>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Seats>);

impl Seats {
    /// An eighth of the connections that a node may have.
    pub(crate) fn of(connections_max: usize, counts: Arc<Tunnels>) -> Arc<Self> {
        let max = (connections_max / 8).clamp(SEATS_MIN, SEATS_MAX);
        Arc::new(Self { max, taken: AtomicUsize::new(0), counts })
    }

    /// `None`: there is none left.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Seat> {
        let take = |taken| (taken < self.max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        self.counts.opened();
        Some(Seat(self.clone()))
    }

    /// What is counted of them.
    pub(crate) fn counts(&self) -> &Tunnels {
        &self.counts
    }
}

impl Seat {
    /// Whether so many are taken that who does not use his is to leave.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.taken.load(Ordering::Relaxed) > self.0.max / 4 * 3
    }

    /// What is counted of all.
    pub(crate) fn counts(&self) -> &Tunnels {
        &self.0.counts
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.counts.closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_who_leaves_makes_room() {
        let seats = Seats::of(0, Arc::default());
        let mut taken: Vec<Seat> = std::iter::from_fn(|| seats.take()).collect();
        assert_eq!(taken.len(), SEATS_MIN);
        assert!(taken[0].is_wanted());
        taken.truncate(SEATS_MIN / 4 * 3);
        assert!(!taken[0].is_wanted());
        assert!(seats.take().is_some());
    }

    #[test]
    fn they_are_a_part_of_all_connections() {
        assert_eq!(Seats::of(400, Arc::default()).max, 50);
        assert_eq!(Seats::of(1 << 20, Arc::default()).max, SEATS_MAX);
    }
}
