//! Which slots are read from the disk at this moment.
//!
//! A page that has left memory comes back with such a read as the disk has it, and that it was right a moment ago says
//! nothing any more. The read may end long after whoever wanted it has gone.
//!
//! Slots share counters: one that looks busy for another's sake is checked once more, and that is all.

use std::ops::Range;

use crate::sync::IS_PLAIN;
use crate::sync::atomic::{AtomicU32, Ordering};

/// 4 KiB, whatever the store. A model of an atomic is larger.
const COUNTERS: usize = if IS_PLAIN { 1024 } else { 2 };

#[derive(Debug)]
pub(crate) struct FromDisk(Box<[AtomicU32]>);

impl FromDisk {
    pub(crate) fn new() -> Self {
        Self((0..COUNTERS).map(|_| AtomicU32::new(0)).collect())
    }

    pub(crate) fn begin(&self, slots: &Range<u32>) {
        self.of_each(slots).for_each(|counter| _ = counter.fetch_add(1, Ordering::Relaxed));
    }

    pub(crate) fn end(&self, slots: &Range<u32>) {
        self.of_each(slots).for_each(|counter| _ = counter.fetch_sub(1, Ordering::Relaxed));
    }

    /// Whether that slot may be read now.
    pub(crate) fn has(&self, slot: u32) -> bool {
        self.counter(slot).load(Ordering::Relaxed) > 0
    }

    fn of_each(&self, slots: &Range<u32>) -> impl Iterator<Item = &AtomicU32> {
        slots.clone().map(|slot| self.counter(slot))
    }

    fn counter(&self, slot: u32) -> &AtomicU32 {
        &self.0[slot as usize % COUNTERS]
    }
}
