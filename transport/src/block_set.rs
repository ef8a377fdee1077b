//! Blocks of one span, one bit each.

use std::fmt;
use std::ops::Range;

use crate::span::SPAN_BLOCKS;

const WORDS: usize = SPAN_BLOCKS as usize / 64;

/// A set of places inside a span, `0..SPAN_BLOCKS`. 128 bytes, no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BlockSet([u64; WORDS]);

impl BlockSet {
    /// No block.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// All places of a span.
    pub const fn full() -> Self {
        Self([u64::MAX; WORDS])
    }

    /// The first `count` places; all of a span when there are not so many.
    pub fn first(count: u32) -> Self {
        Self::run(0, count)
    }

    /// `count` places from `start` on, as far as the span goes.
    pub fn run(start: u32, count: u32) -> Self {
        let end = start.saturating_add(count).min(SPAN_BLOCKS);
        let mut set = Self::EMPTY;
        for (word, bits) in set.0.iter_mut().enumerate() {
            let below = |limit: u32| match limit.saturating_sub(word as u32 * 64) {
                64.. => u64::MAX,
                few => (1 << few) - 1,
            };
            *bits = below(end) & !below(start);
        }
        set
    }

    /// One place.
    pub fn one(place: u32) -> Self {
        Self::run(place, 1)
    }

    /// Adds a place; what lies beyond a span is not added.
    pub fn insert(&mut self, place: u32) {
        if let Some(word) = self.0.get_mut(place as usize / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// Takes a place out.
    pub fn remove(&mut self, place: u32) {
        if let Some(word) = self.0.get_mut(place as usize / 64) {
            *word &= !(1 << (place % 64));
        }
    }

    /// Whether the place is in the set.
    pub fn contains(&self, place: u32) -> bool {
        self.0.get(place as usize / 64).is_some_and(|word| word & 1 << (place % 64) != 0)
    }

    /// How many places.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The highest place with one added: 0 for the empty set.
    pub fn end(&self) -> u32 {
        match self.0.iter().rposition(|word| *word != 0) {
            Some(word) => word as u32 * 64 + 64 - self.0[word].leading_zeros(),
            None => 0,
        }
    }

    /// Adds what is in the other.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    /// What is in either.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// What is in both.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        self
    }

    /// What is here and not there.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= !other);
        self
    }

    /// The places in order.
    pub fn places(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            let mut left = *bits;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                (bit < 64).then(|| {
                    left &= left - 1;
                    word as u32 * 64 + bit
                })
            })
        })
    }

    /// Neighbouring places together, in order; a run of more than `places_max` is cut.
    pub fn runs(&self, places_max: u32) -> impl Iterator<Item = Range<u32>> + use<> {
        let set = *self;
        let mut from = 0;
        std::iter::from_fn(move || {
            let first = (from..SPAN_BLOCKS).find(|place| set.contains(*place))?;
            let most = first.saturating_add(places_max.max(1)).min(SPAN_BLOCKS);
            from = (first..most).find(|place| !set.contains(*place)).unwrap_or(most);
            Some(first..from)
        })
    }

    /// The places in order, beginning at `start` and going round.
    pub(crate) fn places_from(&self, start: u32) -> impl Iterator<Item = u32> {
        let behind = Self::first(start);
        let (rest, before) = (self.minus(&behind), self.and(&behind));
        let mut words = rest.0.into_iter().enumerate().chain(before.0.into_iter().enumerate());
        let mut current = (0, 0u64);
        std::iter::from_fn(move || {
            while current.1 == 0 {
                current = words.next()?;
            }
            let bit = current.1.trailing_zeros();
            current.1 &= current.1 - 1;
            Some(current.0 as u32 * 64 + bit)
        })
    }

    /// The bits of eight places, the lowest first, as they go over the wire.
    pub(crate) fn byte(&self, index: u32) -> u8 {
        (self.0[index as usize / 8] >> (index % 8 * 8)) as u8
    }

    pub(crate) fn set_byte(&mut self, index: u32, bits: u8) {
        self.0[index as usize / 8] |= u64::from(bits) << (index % 8 * 8);
    }
}

impl FromIterator<u32> for BlockSet {
    fn from_iter<I: IntoIterator<Item = u32>>(places: I) -> Self {
        let mut set = Self::EMPTY;
        places.into_iter().for_each(|place| set.insert(place));
        set
    }
}

impl fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.places()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against the plain set of the standard library.
        #[test]
        fn a_set_is_a_set(
            one in prop::collection::btree_set(0..SPAN_BLOCKS, 0..80),
            other in prop::collection::btree_set(0..SPAN_BLOCKS, 0..80),
            start in 0..SPAN_BLOCKS,
        ) {
            let (a, b): (BlockSet, BlockSet) = (one.iter().copied().collect(), other.iter().copied().collect());
            let as_plain = |set: BlockSet| set.places().collect::<BTreeSet<u32>>();
            prop_assert_eq!(as_plain(a.or(&b)), &one | &other);
            prop_assert_eq!(as_plain(a.and(&b)), &one & &other);
            prop_assert_eq!(as_plain(a.minus(&b)), &one - &other);
            prop_assert_eq!(a.len() as usize, one.len());
            prop_assert_eq!(a.end(), one.last().map_or(0, |last| last + 1));
            let round: Vec<u32> = one.range(start..).chain(one.range(..start)).copied().collect();
            prop_assert_eq!(a.places_from(start).collect::<Vec<_>>(), round);
        }

        #[test]
        fn runs_are_neighbours_and_all_of_them(
            places in prop::collection::btree_set(0..SPAN_BLOCKS, 0..200),
            places_max in 1..40u32,
        ) {
            let set: BlockSet = places.iter().copied().collect();
            let runs: Vec<_> = set.runs(places_max).collect();
            prop_assert_eq!(runs.iter().cloned().flatten().collect::<Vec<_>>(), places.into_iter().collect::<Vec<_>>());
            prop_assert!(runs.iter().all(|run| !run.is_empty() && run.len() <= places_max as usize));
            let touch = |pair: &[Range<u32>]| pair[0].end == pair[1].start && pair[0].len() < places_max as usize;
            prop_assert!(!runs.windows(2).any(touch));
        }

        #[test]
        fn a_run_is_its_places(start in 0..1100u32, count in 0..1100u32) {
            let places: Vec<u32> = (start..start + count).filter(|place| *place < SPAN_BLOCKS).collect();
            prop_assert_eq!(BlockSet::run(start, count).places().collect::<Vec<_>>(), places);
        }
    }

    #[test]
    fn beyond_the_span_there_is_nothing() {
        let mut set = BlockSet::EMPTY;
        set.insert(SPAN_BLOCKS);
        set.insert(u32::MAX);
        set.remove(u32::MAX);
        assert!(set.is_empty() && !set.contains(u32::MAX));
        assert_eq!(BlockSet::run(u32::MAX, u32::MAX), BlockSet::EMPTY);
    }
}
