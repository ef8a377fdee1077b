//! Spans: 64 MiB of a content, the unit in which nodes speak of blocks.
//!
//! A map of who holds what is kept, sent and bounded by span. Of a small content all spans have one owner; of one
//! that would fill more than a quarter of a seed each span has its own ([`Plot`], [`crate::ownership`]).

use std::ops::Range;

use darter_engine::{BlockIndex, BlockRun, ContentId, Layout, Scope};

use crate::block_set::BlockSet;

/// Blocks of a full span: 64 MiB.
pub const SPAN_BLOCKS: u32 = 1024;

/// A span of one content. Minted by [`spans`] and [`SpanIndex::of`] for what lies inside a content, and by the wire,
/// where [`SpanIndex::blocks`] says whether a content has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpanIndex(u32);

impl SpanIndex {
    /// The first span.
    pub const FIRST: Self = Self(0);

    /// As a peer writes it.
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The span that a block lies in.
    pub fn of(block: BlockIndex) -> Self {
        Self(block.number() / SPAN_BLOCKS)
    }

    /// Position in the content, counted in spans.
    pub fn number(self) -> u32 {
        self.0
    }

    /// How many blocks the span has in a content; 0 if the content ends before it.
    pub fn blocks(self, layout: Layout) -> u32 {
        let before = u64::from(self.0) * u64::from(SPAN_BLOCKS);
        u64::from(layout.block_count()).saturating_sub(before).min(u64::from(SPAN_BLOCKS)) as u32
    }

    /// The block at a place of the span, if the content has it.
    pub fn block(self, layout: Layout, place: u32) -> Option<BlockIndex> {
        let number = self.0.checked_mul(SPAN_BLOCKS)?.checked_add(place)?;
        layout.block(number).filter(|_| place < SPAN_BLOCKS)
    }

    /// Places of the span as a run of the content's blocks; `None` if it is empty or the content has not all of them.
    pub fn run(self, layout: Layout, places: &Range<u32>) -> Option<BlockRun> {
        let first = self.0.checked_mul(SPAN_BLOCKS)?;
        (places.end <= SPAN_BLOCKS)
            .then(|| layout.run(first.checked_add(places.start)?, first.checked_add(places.end)?))?
    }
}

/// The place of a block in its span.
pub fn place_of(block: BlockIndex) -> u32 {
    block.number() % SPAN_BLOCKS
}

/// A run cut at the borders of spans.
pub fn spans(run: BlockRun) -> impl Iterator<Item = (SpanIndex, BlockSet)> {
    (SpanIndex::of(run.first()).0..=SpanIndex::of(run.last()).0).map(move |span| {
        let start = u64::from(span) * u64::from(SPAN_BLOCKS);
        let first = u64::from(run.first().number()).max(start) - start;
        let end = (u64::from(run.last().number()) + 1 - start).min(u64::from(SPAN_BLOCKS));
        (SpanIndex(span), BlockSet::run(first as u32, (end - first) as u32))
    })
}

/// What one map is about: a span of a content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Plot {
    /// The content.
    pub content: ContentId,
    /// Whose bytes: what has not been checked as a whole is not mixed with another registry's.
    pub scope: Scope,
    /// Which 64 MiB of it.
    pub span: SpanIndex,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_tile_a_run(blocks in 1..5000u32, a in 0..5000u32, b in 0..5000u32) {
            let layout = Layout::new(u64::from(blocks) * 65_536 - 1).unwrap();
            let (first, end) = (a.min(b) % blocks, (a.max(b) % blocks).max(a.min(b) % blocks) + 1);
            let run = layout.run(first, end).unwrap();
            let again: Vec<BlockIndex> = spans(run)
                .flat_map(|(span, places)| places.places().map(move |place| (span, place)).collect::<Vec<_>>())
                .map(|(span, place)| span.block(layout, place).unwrap())
                .collect();
            prop_assert_eq!(again, run.blocks().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_content_has_the_blocks_that_it_has() {
        let layout = Layout::new(1500 * 65_536).unwrap();
        let blocks = |number| SpanIndex::from_number(number).blocks(layout);
        assert_eq!([blocks(0), blocks(1), blocks(2), blocks(u32::MAX)], [1024, 476, 0, 0]);
        let span = SpanIndex::from_number(1);
        assert_eq!(span.block(layout, 476), None);
        assert_eq!(span.run(layout, &(470..477)), None);
        assert_eq!(span.run(layout, &(470..476)).map(|run| run.first().number()), Some(1494));
        assert_eq!(SpanIndex::from_number(u32::MAX).run(layout, &(0..1)), None);
    }
}
