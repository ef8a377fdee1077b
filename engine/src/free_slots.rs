//! Which slots are free, as a bitmap that hands out neighbours where it can.
//!
//! Neighbouring slots keep long reads and writes long. The search goes on where the last one ended, so slots
//! fill in order and a fetch's pieces stay together; its cost is bounded by one pass over the bitmap.

use crate::slot::SlotIndex;

/// A set of slots.
#[derive(Debug)]
pub(crate) struct FreeSlots {
    words: Vec<u64>,
    free: u32,
    cursor: u32,
    slots: u32,
}

impl FreeSlots {
    /// No slot is free.
    pub(crate) fn none(slots: u32) -> Self {
        Self { words: vec![0; slots.div_ceil(64) as usize], free: 0, cursor: 0, slots }
    }

    pub(crate) fn len(&self) -> u32 {
        self.free
    }

    pub(crate) fn insert(&mut self, slot: SlotIndex) {
        let bit = 1 << (slot.0 % 64);
        let word = &mut self.words[(slot.0 / 64) as usize];
        debug_assert_eq!(*word & bit, 0, "slot {} was free already", slot.0);
        self.free += u32::from(*word & bit == 0);
        *word |= bit;
    }

    /// The slot may not be given out any more.
    pub(crate) fn remove(&mut self, slot: SlotIndex) {
        if self.contains(slot.0) {
            self.words[(slot.0 / 64) as usize] &= !(1 << (slot.0 % 64));
            self.free -= 1;
        }
    }

    /// Takes `count` slots, all of them or none: neighbours where a long enough run is near, else the next ones.
    pub(crate) fn take(&mut self, count: u32) -> Option<Vec<SlotIndex>> {
        if count > self.free {
            return None;
        }
        if count == 0 {
            return Some(Vec::new());
        }
        let start = self.run_near_cursor(count).unwrap_or(self.cursor);
        let mut taken = Vec::with_capacity(count as usize);
        let mut slot = start;
        while taken.len() < count as usize {
            slot = self.next_free(slot);
            self.words[(slot / 64) as usize] &= !(1 << (slot % 64));
            taken.push(SlotIndex(slot));
            slot = (slot + 1) % self.slots;
        }
        self.free -= count;
        self.cursor = slot;
        Some(taken)
    }

    /// First slot of `count` free neighbours, looked for in a few thousand slots from the cursor on.
    fn run_near_cursor(&self, count: u32) -> Option<u32> {
        const LOOK_AHEAD_SLOTS: u32 = 4096;
        let end = self.slots.min(self.cursor.saturating_add(LOOK_AHEAD_SLOTS));
        let mut length = 0;
        for slot in self.cursor..end {
            length = if self.contains(slot) { length + 1 } else { 0 };
            if length == count {
                return Some(slot + 1 - count);
            }
        }
        None
    }

    /// The first free slot at or after `slot`, going round. There must be one.
    fn next_free(&self, slot: u32) -> u32 {
        let words = self.words.len() as u32;
        let first = slot / 64;
        let masked = self.words[first as usize] & (u64::MAX << (slot % 64));
        if masked != 0 {
            return first * 64 + masked.trailing_zeros();
        }
        // One word more than there are, so that the low bits of the first one are looked at last.
        (1..=words)
            .map(|step| (first + step) % words)
            .find(|word| self.words[*word as usize] != 0)
            .map(|word| word * 64 + self.words[word as usize].trailing_zeros())
            .unwrap_or_else(|| unreachable!("the caller has counted a free slot"))
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.words[(slot / 64) as usize] & 1 << (slot % 64) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn all_free(slots: u32) -> FreeSlots {
        let mut free = FreeSlots::none(slots);
        (0..slots).for_each(|slot| free.insert(SlotIndex(slot)));
        free
    }

    #[test]
    fn a_fetch_takes_neighbours_where_it_can() {
        let mut free = all_free(256);
        let first = free.take(16).unwrap();
        assert!(first.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
        // A hole of three is passed over by who wants four.
        first.iter().take(3).for_each(|slot| free.insert(*slot));
        let next = free.take(4).unwrap();
        assert_eq!(next[0].0, 16);
    }

    proptest! {
        #[test]
        fn no_slot_is_given_twice(slots in 64..300u32, steps in prop::collection::vec((0..40u32, any::<bool>()), 1..60)) {
            let mut free = all_free(slots);
            let mut held = BTreeSet::new();
            for (count, give_back) in steps {
                if give_back {
                    let back: Vec<u32> = held.iter().copied().take(count as usize).collect();
                    for slot in back {
                        held.remove(&slot);
                        free.insert(SlotIndex(slot));
                    }
                } else if let Some(taken) = free.take(count) {
                    prop_assert_eq!(taken.len() as u32, count);
                    prop_assert!(taken.iter().all(|slot| slot.0 < slots && held.insert(slot.0)));
                } else {
                    prop_assert!(count > free.len());
                }
                prop_assert_eq!(free.len() + held.len() as u32, slots);
            }
        }
    }
}
