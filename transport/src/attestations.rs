//! The digests of blocks that a seed attests, as this node knows them: shared by all shards, bounded.
//!
//! On a seed they are computed of what came from the origin, or of what its store holds; on every node they are what
//! seeds have told. A digest that is forgotten is computed again by a seed that holds the block, or told again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use darter_engine::{ContentId, Scope};

use crate::block_set::BlockSet;
use crate::span::{Plot, SPAN_BLOCKS};
use crate::wire::BlockDigest;

/// Digests that are remembered: 64 MiB, for 128 GiB of contents.
pub const DIGESTS_MAX: usize = CHUNKS_MAX * CHUNK_PLACES;
/// Plots with digests: as many as have maps.
const PLOTS_MAX: usize = crate::tracker::SWARMS_MAX;
/// Digests that are allocated together: 2 KiB, for 4 MiB of a content.
const CHUNK_PLACES: usize = 64;
const CHUNKS_OF_SPAN: usize = SPAN_BLOCKS as usize / CHUNK_PLACES;
const CHUNKS_MAX: usize = 32_768;

const _: () = assert!(CHUNK_PLACES * CHUNKS_OF_SPAN == SPAN_BLOCKS as usize);
const _: () = assert!(CHUNKS_MAX >= CHUNKS_OF_SPAN, "one plot has room");

/// Digests of blocks, by plot. What was touched longest ago is forgotten first.
#[derive(Debug, Default)]
pub struct Attestations {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    plots: HashMap<Plot, Digests>,
    /// Of all plots together.
    chunks: usize,
    /// Counts touches.
    clock: u64,
}

type Chunk = [BlockDigest; CHUNK_PLACES];

#[derive(Debug, Default)]
struct Digests {
    known: BlockSet,
    chunks: [Option<Box<Chunk>>; CHUNKS_OF_SPAN],
    touched: u64,
}

impl Attestations {
    /// Knows none.
    pub fn new() -> Self {
        Self::default()
    }

    /// These are the digests of the blocks from `first` on; what lies beyond a span is passed over. Replaces what was
    /// known. False if nothing is new.
    pub fn attest(&self, plot: &Plot, first: u32, digests: &[BlockDigest]) -> bool {
        let mut inner = self.inner();
        let mut is_new = false;
        for (place, digest) in (first..SPAN_BLOCKS).zip(digests) {
            is_new |= inner.put(plot, place, digest);
        }
        is_new
    }

    /// The digest of a block.
    pub fn digest(&self, plot: &Plot, place: u32) -> Option<BlockDigest> {
        self.inner().touched(plot)?.digest(place)
    }

    /// Of which blocks the digests are known.
    pub fn known(&self, plot: &Plot) -> BlockSet {
        self.inner().plots.get(plot).map_or(BlockSet::EMPTY, |digests| digests.known)
    }

    /// The digests of those of these blocks of which they are known, as runs of neighbours with their first place.
    pub fn runs(&self, plot: &Plot, places: &BlockSet) -> Vec<(u32, Vec<BlockDigest>)> {
        let mut inner = self.inner();
        let Some(digests) = inner.touched(plot) else { return Vec::new() };
        let known = digests.known.and(places);
        let of_run =
            |run: std::ops::Range<u32>| (run.start, run.filter_map(|at| digests.digest(at)).collect());
        known.runs(SPAN_BLOCKS).map(of_run).collect()
    }

    /// The digest of a block was wrong, or cannot be told any more.
    pub fn forget_one(&self, plot: &Plot, place: u32) {
        if let Some(digests) = self.inner().plots.get_mut(plot) {
            digests.known.remove(place);
        }
    }

    /// The bytes of a content are no longer what they were.
    pub fn forget(&self, content: &ContentId, scope: Scope) {
        let mut inner = self.inner();
        let of_content = |plot: &Plot| plot.content == *content && plot.scope == scope;
        let gone: Vec<Plot> = inner.plots.keys().filter(|plot| of_content(plot)).copied().collect();
        gone.iter().for_each(|plot| inner.remove(plot));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn touched(&mut self, plot: &Plot) -> Option<&mut Digests> {
        self.clock += 1;
        let digests = self.plots.get_mut(plot)?;
        digests.touched = self.clock;
        Some(digests)
    }

    fn put(&mut self, plot: &Plot, place: u32, digest: &BlockDigest) -> bool {
        let (chunk, at) = (place as usize / CHUNK_PLACES, place as usize % CHUNK_PLACES);
        let known = self.plots.get(plot);
        if known.is_some_and(|digests| digests.digest(place) == Some(*digest)) {
            return false;
        }
        let needs_chunk = known.is_none_or(|digests| digests.chunks[chunk].is_none());
        if known.is_none() && self.plots.len() >= PLOTS_MAX || needs_chunk && self.chunks >= CHUNKS_MAX {
            self.forget_the_oldest(plot);
        }
        self.chunks += usize::from(needs_chunk);
        self.clock += 1;
        let digests = self.plots.entry(*plot).or_default();
        digests.touched = self.clock;
        let chunk = digests.chunks[chunk].get_or_insert_with(|| Box::new([[0; 32]; CHUNK_PLACES]));
        chunk[at] = *digest;
        digests.known.insert(place);
        true
    }

    /// Forgets an eighth of the plots, at least one, those that were touched longest ago, and not `except`.
    fn forget_the_oldest(&mut self, except: &Plot) {
        let others = self.plots.iter().filter(|(plot, _)| *plot != except);
        let mut by_age: Vec<(u64, Plot)> = others.map(|(plot, digests)| (digests.touched, *plot)).collect();
        by_age.sort_unstable_by_key(|(touched, _)| *touched);
        for (_, plot) in by_age.iter().take(by_age.len().div_ceil(8)) {
            self.remove(plot);
        }
    }

    fn remove(&mut self, plot: &Plot) {
        let chunks = self.plots.remove(plot).map_or(0, |digests| digests.chunks.iter().flatten().count());
        self.chunks -= chunks;
    }
}

impl Digests {
    fn digest(&self, place: u32) -> Option<BlockDigest> {
        let chunk = self.chunks.get(place as usize / CHUNK_PLACES)?.as_ref()?;
        self.known.contains(place).then(|| chunk[place as usize % CHUNK_PLACES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::SpanIndex;
    use crate::tracker::tests::plot;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn digest(number: u32) -> BlockDigest {
        blake3::hash(&number.to_le_bytes()).into()
    }

    fn far_plot(span: u32) -> Plot {
        Plot { span: SpanIndex::from_number(span), ..plot(1) }
    }

    proptest! {
        /// Against the plain map of the standard library.
        #[test]
        fn what_was_attested_is_known(
            steps in prop::collection::vec((0..2u8, 0..1100u32, 0..70usize, 0..9u32), 1..20),
            asked in prop::collection::vec(0..SPAN_BLOCKS, 0..200),
        ) {
            let (attestations, mut plain) = (Attestations::new(), BTreeMap::new());
            for (step, first, count, salt) in steps {
                if step == 0 {
                    let digests: Vec<_> = (0..count as u32).map(|at| digest(at + salt)).collect();
                    let places = (first..SPAN_BLOCKS).zip(digests.iter().copied());
                    let is_new = places.clone().any(|(place, digest)| plain.get(&place) != Some(&digest));
                    plain.extend(places);
                    prop_assert_eq!(attestations.attest(&plot(1), first, &digests), is_new);
                } else {
                    plain.remove(&first);
                    attestations.forget_one(&plot(1), first);
                }
            }
            prop_assert_eq!(attestations.known(&plot(1)), plain.keys().copied().collect::<BlockSet>());
            let asked: BlockSet = asked.into_iter().collect();
            let told: BTreeMap<u32, BlockDigest> =
                attestations.runs(&plot(1), &asked).into_iter().flat_map(|(first, run)| (first..).zip(run)).collect();
            plain.retain(|place, _| asked.contains(*place));
            prop_assert_eq!(told, plain);
            prop_assert!(attestations.known(&plot(2)).is_empty());
        }
    }

    #[test]
    fn the_oldest_are_forgotten_first_and_the_bound_holds() {
        let attestations = Attestations::new();
        let last = PLOTS_MAX as u32 + 99;
        for span in 0..=last {
            attestations.attest(&far_plot(span), 0, &[digest(span)]);
            let inner = attestations.inner();
            assert!(inner.plots.len() <= PLOTS_MAX && inner.chunks == inner.plots.len());
        }
        assert_eq!(attestations.digest(&far_plot(0), 0), None);
        assert_eq!(attestations.digest(&far_plot(last), 0), Some(digest(last)));
        let full = vec![digest(1); SPAN_BLOCKS as usize];
        for span in 0..(CHUNKS_MAX / CHUNKS_OF_SPAN) as u32 + 50 {
            attestations.attest(&far_plot(span), 0, &full);
            assert!(attestations.inner().chunks <= CHUNKS_MAX);
            assert_eq!(attestations.known(&far_plot(span)), BlockSet::full());
        }
    }

    #[test]
    fn a_content_is_forgotten_with_all_its_plots() {
        let attestations = Attestations::new();
        (0..3).for_each(|span| _ = attestations.attest(&far_plot(span), 5, &[digest(span)]));
        attestations.attest(&plot(2), 5, &[digest(9)]);
        attestations.forget(&plot(1).content, plot(1).scope);
        assert!((0..3).all(|span| attestations.known(&far_plot(span)).is_empty()));
        assert_eq!((attestations.digest(&plot(2), 5), attestations.inner().chunks), (Some(digest(9)), 1));
    }
}
