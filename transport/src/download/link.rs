//! What a node knows of one source's ways: what it is asked for, how quick it is, how often it has failed.
//!
//! Pure, as [`Download`](super::Download) is: the time comes in.

use std::time::{Duration, Instant};

use crate::block_set::BlockSet;
use crate::wire::RUN_BLOCKS_MAX;

/// A source that brings no block for so long loses its request: never before, however quick it was.
const PATIENCE_MIN: Duration = Duration::from_millis(250);
/// Nor later than this, so that with the way of the next request a reader goes on within a second.
pub(super) const PATIENCE_MAX: Duration = Duration::from_millis(800);
/// How long a source is left alone after its first fault; doubled with each further one.
const LEFT_ALONE: Duration = Duration::from_secs(1);
const LEFT_ALONE_DOUBLINGS_MAX: u32 = 5;
/// For what somebody waits for it is left alone so many times as long: as long as the owner names it after all others.
const SPARED_TIMES: u32 = 10;
/// A parent that is to send no more than so many blocks is asked for the next ones: with its last block on the way here it
/// would have nothing to send until the next request has come to it, and behind full links that takes 50 ms.
pub(super) const ASKED_AHEAD_BLOCKS: u32 = 3;
/// A request is so long that a source needs this time for it: shorter ones cost round trips, longer ones let
/// blocks be passed on later.
const REQUEST_TIME: Duration = Duration::from_millis(80);
/// Blocks asked of a parent whose speed is not known.
const FIRST_REQUEST_BLOCKS: u32 = 4;

/// What is known of a source's ways.
#[derive(Debug, Default)]
pub(super) struct Link {
    request: Option<Box<Request>>,
    rest_until: Option<Instant>,
    /// Before this nothing is asked of it that somebody waits for, if anyone else can be asked.
    spared_until: Option<Instant>,
    /// Smoothed time for a block.
    block_time: Option<Duration>,
    faults: u32,
    /// So many of its requests are not read on: this node has no room.
    stands_still: u32,
}

#[derive(Debug)]
struct Request {
    /// Asked for and not here. Of the owner's «any of these» what it has announced.
    left: BlockSet,
    /// When the last block came, or the request was made.
    progress: Instant,
}

impl Link {
    /// Whether something may be asked of it now.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.request.is_none() && self.rest_until.is_none_or(|until| until <= now)
    }

    /// Whether it has little left to send of what it was asked for.
    pub(super) fn is_nearly_free(&self) -> bool {
        let request = self.request.as_ref().filter(|_| self.stands_still == 0);
        request.is_some_and(|request| request.left.len() <= ASKED_AHEAD_BLOCKS)
    }

    /// How long it may bring nothing: as long as eight blocks take.
    pub(super) fn patience(&self) -> Duration {
        let expected = self.block_time.map_or(PATIENCE_MIN, |block| block.saturating_mul(8));
        expected.clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// When somebody else is to be asked for what this source was asked for.
    pub(super) fn overdue_at(&self, patience: Duration) -> Option<Instant> {
        let request = self.request.as_ref().filter(|_| self.stands_still == 0);
        request.map(|request| request.progress + patience)
    }

    /// It is asked for these, too.
    pub(super) fn ask(&mut self, places: &BlockSet, now: Instant) {
        match &mut self.request {
            Some(request) => request.left.add(places),
            None => self.request = Some(Box::new(Request { left: *places, progress: now })),
        }
        self.rest_until = None;
    }

    /// It has failed: it is left alone, longer each time.
    pub(super) fn fault(&mut self, now: Instant) -> Instant {
        let doublings = self.faults.min(LEFT_ALONE_DOUBLINGS_MAX);
        self.faults = self.faults.saturating_add(1);
        let left_alone = LEFT_ALONE * 2u32.pow(doublings);
        self.rest_until = Some(now + left_alone);
        *self.spared_until.insert(now + left_alone * SPARED_TIMES)
    }

    /// Whether it failed so lately that nobody should wait for it.
    pub(super) fn is_spared(&self, now: Instant) -> bool {
        self.spared_until.is_some_and(|until| now < until)
    }

    /// Whether it has brought anything yet.
    pub(super) fn is_proven(&self) -> bool {
        self.block_time.is_some()
    }

    /// A block has come of the request: how long it took is smoothed over eight.
    pub(super) fn progress(&mut self, place: u32, now: Instant) {
        let Some(request) = &mut self.request else { return };
        request.left.remove(place);
        let took = now.saturating_duration_since(std::mem::replace(&mut request.progress, now));
        self.block_time = Some(self.block_time.map_or(took, |before| (before * 7 + took) / 8));
        self.faults = self.faults.saturating_sub(1);
    }

    /// As many blocks as it brings in [`REQUEST_TIME`].
    pub(super) fn request_blocks(&self) -> u32 {
        let Some(block_time) = self.block_time else { return FIRST_REQUEST_BLOCKS };
        let blocks = REQUEST_TIME.as_micros() / block_time.as_micros().max(1);
        (blocks as u32).clamp(1, RUN_BLOCKS_MAX)
    }

    /// Not before then is it asked again.
    pub(super) fn rests_until(&mut self, until: Instant) {
        self.rest_until = Some(until);
    }

    /// Until when it is left alone, if it is.
    pub(super) fn rest(&self) -> Option<Instant> {
        self.rest_until
    }

    /// What is asked of it and not here.
    #[cfg(test)]
    pub(super) fn left(&self) -> BlockSet {
        self.request.as_ref().map_or(BlockSet::EMPTY, |request| request.left)
    }

    /// Whether something is asked of it.
    pub(super) fn has_request(&self) -> bool {
        self.request.is_some()
    }

    /// How often it has failed, less what it has brought since.
    pub(super) fn faults(&self) -> u32 {
        self.faults
    }

    /// One of its requests is not read on: the time until it [goes on](Self::goes_on) is not its fault.
    pub(super) fn stands_still(&mut self) {
        self.stands_still += 1;
    }

    pub(super) fn goes_on(&mut self, now: Instant) {
        self.stands_still = self.stands_still.saturating_sub(1);
        if let Some(request) = &mut self.request {
            request.progress = now;
        }
    }

    /// It has said that it is about to send these too. False when it was asked for nothing.
    pub(super) fn will_send(&mut self, places: &BlockSet) -> bool {
        let Some(request) = &mut self.request else { return false };
        request.left = request.left.or(places);
        true
    }

    /// These are no longer asked of it; which of them had not come.
    pub(super) fn release(&mut self, places: &BlockSet) -> BlockSet {
        let Some(request) = &mut self.request else { return BlockSet::EMPTY };
        let left = request.left.and(places);
        request.left = request.left.minus(places);
        if request.left.is_empty() {
            self.request = None;
        }
        left
    }
}
