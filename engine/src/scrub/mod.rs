//! The thread that looks after what is on the disk, while nobody waits for it.
//!
//! * After a start it brings pinned contents into the page cache, as far as it is told to.
//! * Then it *scrubs*: in rounds it reads every piece that is on the disk, past the page cache, and compares it with
//!   its checksums and whole contents with their digests. After a stop that was not in order a round begins at once,
//!   and goes faster.
//!
//! What is bad is dropped, and the next reader's fetch brings it again: the store does not know how to ask for it.
//! [`course`] says where the scrub is, [`pace`] how fast it goes; both are pure. [`reading`] is one content read
//! through, which is also what a verification by command does, and [`disk`] its reads.
//!
//! One niced thread with blocking reads, whatever the shards' I/O: `docs/performance.md` has the measurement.

mod course;
mod disk;
mod pace;
mod queue;
mod reading;
mod record_pages;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::content::Content;
use crate::format::{HEADER_BYTES, SCRUB_OFFSET, ScrubPage, ScrubPosition};
use crate::store::Inner;

use course::{Course, Due};
use pace::Pace;

pub(crate) use disk::{Aligned, Disk};
pub(crate) use queue::ScrubQueue;
pub(crate) use reading::{For, Reading};

pub use queue::{ScrubOptions, ScrubStatus};
pub use reading::Verified;

/// How many times faster than otherwise a round goes after an unclean stop.
const URGENT_FACTOR: u64 = 4;
/// How fast pinned contents are brought into the page cache.
const WARM_UP_BYTES_PER_S: u64 = 128 << 20;
/// How much of a round a kill -9 may cost.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Records looked at under one lock.
const PLACES_AT_ONCE: usize = 4096;

/// The thread's own state.
pub(crate) struct Scrub {
    inner: Arc<Inner>,
    /// `records`, for the one page that is the scrub's. A descriptor of its own: what happens to its writes is not
    /// told to the keeper's syncs, nor the other way round.
    records: Option<File>,
    course: Course,
    saved_at: Duration,
    disk: Disk,
    pace: Pace,
}

/// Why a stretch of pieces was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    AtItsEnd,
    /// The store closes, or the scrub has been turned off.
    Stopped,
}

impl Scrub {
    pub(crate) fn new(inner: Arc<Inner>, records: Option<File>) -> Self {
        let mut page = [0; HEADER_BYTES];
        let read = records.as_ref().is_some_and(|file| file.read_exact_at(&mut page, SCRUB_OFFSET).is_ok());
        let page = if read { ScrubPage::decode(&page, inner.store_id) } else { ScrubPage::default() };
        let mut course = Course::new(page);
        if !inner.clean_start {
            course.after_unclean_stop(clock::unix_s());
        }
        let disk = Disk::new(&inner.records_path);
        let scrub = Self { inner, records, course, saved_at: clock::elapsed(), disk, pace: Pace::default() };
        scrub.save();
        scrub
    }

    pub(crate) fn run(mut self, warm_up_bytes_max: u64) {
        crate::keeper::lower_priority();
        self.warm_up(warm_up_bytes_max);
        while let Some(options) = self.inner.scrub.options() {
            let rest = self.turn(options);
            self.inner.scrub.rest(rest);
        }
        self.save();
    }

    /// Does what is due. Returns for how long nothing is.
    fn turn(&mut self, options: ScrubOptions) -> Duration {
        if options.bytes_per_s == 0 {
            return Duration::MAX;
        }
        match self.course.due(clock::unix_s(), options.interval) {
            Due::Pieces { from, until } => {
                if self.stretch(from, until) == Left::AtItsEnd {
                    self.end_stretch();
                }
                Duration::ZERO
            }
            Due::Rest(time) => time,
        }
    }

    /// Reads the pieces from one place up to another.
    fn stretch(&mut self, from: ScrubPosition, until: Option<ScrubPosition>) -> Left {
        let mut at = from;
        while let Some(content) = self.content_from(at.place, until) {
            let pieces = content.layout().piece_count();
            let first = if content.place == at.place { at.piece } else { 0 };
            let end = until.filter(|until| until.place == content.place).map_or(pieces, |until| until.piece);
            let place = content.place;
            let mut reading = Reading::new(content, For::Scrub, first == 0);
            for number in first..end.min(pieces) {
                let Some(piece) = reading.content().layout().piece(number) else { break };
                let (begun, before) = (clock::elapsed(), reading.found());
                let read_bytes = reading.piece(&self.inner, &mut self.disk, piece);
                let found = reading.found();
                self.course.passed(
                    ScrubPosition { place, piece: number + 1 },
                    found.checked_blocks - before.checked_blocks,
                    found.bad_blocks - before.bad_blocks,
                );
                if read_bytes > 0 && !self.pause(read_bytes, begun) {
                    return Left::Stopped;
                }
            }
            if end >= pieces {
                reading.finish(&self.inner);
            }
            at = ScrubPosition { place: place.saturating_add(1), piece: 0 };
            self.course.passed(at, 0, 0);
        }
        Left::AtItsEnd
    }

    /// Tells how far it is, and waits for the next read's turn. False if there is none.
    fn pause(&mut self, read_bytes: u64, begun: Duration) -> bool {
        let ended = clock::elapsed();
        if ended - self.saved_at >= SAVE_EVERY {
            self.saved_at = ended;
            self.save();
        }
        self.inner.scrub.note(*self.course.page());
        let urgent = self.course.page().round.is_some_and(|round| round.urgent);
        let rate = |options: ScrubOptions| {
            let factor = if urgent { URGENT_FACTOR } else { 1 };
            options.bytes_per_s.saturating_mul(factor)
        };
        let Some(bytes_per_s) = self.inner.scrub.options().map(rate).filter(|rate| *rate > 0) else {
            return false;
        };
        let rest = self.pace.rest_after(read_bytes, bytes_per_s, begun, ended);
        self.inner.scrub.rest(rest);
        true
    }

    fn end_stretch(&mut self) {
        let urgent = self.course.page().round.is_some_and(|round| round.urgent);
        let ended = self.course.stretch_ended(clock::unix_s());
        self.inner.scrub.note(*self.course.page());
        if !ended {
            return;
        }
        let ScrubPage { last_checked_blocks: checked_blocks, last_bad_blocks: bad_blocks, .. } =
            *self.course.page();
        if urgent || checked_blocks > 0 {
            let reason = if urgent { "an unclean stop" } else { "the interval" };
            tracing::info!(reason, checked_blocks, bad_blocks, "all that is on the disk has been checked");
        }
        self.disk.close();
        self.save();
    }

    /// The first content from a place on that has something before `until`.
    fn content_from(&self, place: u32, until: Option<ScrubPosition>) -> Option<Arc<Content>> {
        let table = self.inner.geometry.contents() as usize;
        let end =
            until.map_or(table, |until| (until.place as usize).saturating_add(usize::from(until.piece > 0)));
        let end = end.min(table);
        (place as usize..end).step_by(PLACES_AT_ONCE).find_map(|first| {
            let last = first.saturating_add(PLACES_AT_ONCE).min(end);
            let places = self.inner.index.places();
            places.some(first..last).find(|content| !content.is_gone()).cloned()
        })
    }

    /// Brings pinned contents into the page cache, for the readers that will come for them.
    fn warm_up(&mut self, bytes_max: u64) {
        let mut left = bytes_max;
        let mut place = 0;
        while let Some(content) = self.content_from(place, None) {
            place = content.place.saturating_add(1);
            if !content.pinned() {
                continue;
            }
            let mut reading = Reading::new(content, For::WarmUp, false);
            for number in 0..reading.content().layout().piece_count() {
                let Some(piece) = reading.content().layout().piece(number) else { break };
                if left < u64::from(crate::layout::PIECE_BYTES) {
                    tracing::info!(
                        bytes_max,
                        "more is pinned than memory is free: the rest is read from disk"
                    );
                    return;
                }
                let begun = clock::elapsed();
                let read_bytes = reading.piece(&self.inner, &mut self.disk, piece);
                left = left.saturating_sub(read_bytes);
                if read_bytes > 0 {
                    let rest = self.pace.rest_after(read_bytes, WARM_UP_BYTES_PER_S, begun, clock::elapsed());
                    self.inner.scrub.rest(rest);
                }
                if self.inner.scrub.options().is_none() {
                    return;
                }
            }
        }
    }

    /// In place and without a sync: a position that is lost costs reading some pieces once more.
    fn save(&self) {
        self.inner.scrub.note(*self.course.page());
        let Some(records) = &self.records else { return };
        if let Err(error) =
            records.write_all_at(&self.course.page().encode(self.inner.store_id), SCRUB_OFFSET)
        {
            tracing::debug!(%error, "how far the scrub is could not be noted");
        }
    }
}
