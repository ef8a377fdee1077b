//! Length of a content → its blocks and pieces.
//!
//! [`Layout`] is the only mint of [`BlockIndex`] and [`PieceIndex`], and of runs of blocks: whoever holds one
//! knows that it lies inside its content. Byte ranges become runs here and nowhere else.

use std::ops::Range;

/// Unit of presence, of crc32 and BLAKE3, and of fetching on demand.
pub const BLOCK_BYTES: u32 = 64 * 1024;
/// Unit of allocation and of eviction: one piece lives in one slot.
pub const PIECE_BYTES: u32 = 256 * 1024;
/// Blocks of a full piece.
pub const BLOCKS_PER_PIECE: u32 = PIECE_BYTES / BLOCK_BYTES;
/// The longest content that a store can name: its pieces are counted by `u32`.
pub const CONTENT_BYTES_MAX: u64 = (u32::MAX as u64 / BLOCKS_PER_PIECE as u64) * PIECE_BYTES as u64;

const _: () = assert!(PIECE_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(BLOCKS_PER_PIECE <= 8, "presence of a piece is one byte");

/// A block of one content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockIndex(u32);

impl BlockIndex {
    /// Position in the content, counted in blocks.
    pub fn number(self) -> u32 {
        self.0
    }

    /// First byte of the block in its content.
    pub fn byte_offset(self) -> u64 {
        u64::from(self.0) * u64::from(BLOCK_BYTES)
    }

    /// The piece that holds this block.
    pub fn piece(self) -> PieceIndex {
        PieceIndex(self.0 / BLOCKS_PER_PIECE)
    }

    /// Position inside the piece: `0..BLOCKS_PER_PIECE`.
    pub(crate) fn in_piece(self) -> u32 {
        self.0 % BLOCKS_PER_PIECE
    }
}

/// A piece of one content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// Position in the content, counted in pieces.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Neighbouring blocks of one content; never empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockRun {
    first: u32,
    end: u32,
}

impl BlockRun {
    /// The first block.
    pub fn first(self) -> BlockIndex {
        BlockIndex(self.first)
    }

    /// The last block.
    pub fn last(self) -> BlockIndex {
        BlockIndex(self.end - 1)
    }

    /// How many blocks; at least one.
    #[allow(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(self) -> u32 {
        self.end - self.first
    }

    /// The blocks in order.
    pub fn blocks(self) -> impl DoubleEndedIterator<Item = BlockIndex> + ExactSizeIterator {
        (self.first..self.end).map(BlockIndex)
    }

    /// The pieces that the run touches, in order.
    pub fn pieces(self) -> impl DoubleEndedIterator<Item = PieceIndex> {
        (self.first().piece().0..=self.last().piece().0).map(PieceIndex)
    }

    /// Whether the block lies in the run.
    pub fn contains(self, block: BlockIndex) -> bool {
        (self.first..self.end).contains(&block.0)
    }

    /// The first `blocks` blocks, or all if there are fewer. `blocks` of zero counts as one.
    pub fn take(self, blocks: u32) -> Self {
        Self { first: self.first, end: self.end.min(self.first.saturating_add(blocks.max(1))) }
    }

    /// What follows the first `blocks` blocks, if anything does.
    pub fn skip(self, blocks: u32) -> Option<Self> {
        let first = self.first.checked_add(blocks).filter(|first| *first < self.end)?;
        Some(Self { first, end: self.end })
    }

    /// From `block` to the end of the run, if `block` lies in it.
    pub fn starting_at(self, block: BlockIndex) -> Option<Self> {
        self.contains(block).then_some(Self { first: block.0, end: self.end })
    }

    /// The run cut at the borders of pieces: each part lies in one piece.
    pub fn by_piece(self) -> impl Iterator<Item = (PieceIndex, BlockRun)> {
        self.pieces().map(move |piece| {
            let first = self.first.max(piece.0 * BLOCKS_PER_PIECE);
            // Pieces times BLOCKS_PER_PIECE fits by CONTENT_BYTES_MAX; the piece's end may not.
            let end = u64::from(self.end).min((u64::from(piece.0) + 1) * u64::from(BLOCKS_PER_PIECE)) as u32;
            (piece, BlockRun { first, end })
        })
    }
}

/// How a content of a given length is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    length: u64,
}

impl Layout {
    /// `None` if the length is above [`CONTENT_BYTES_MAX`].
    pub fn new(length_bytes: u64) -> Option<Self> {
        (length_bytes <= CONTENT_BYTES_MAX).then_some(Self { length: length_bytes })
    }

    /// Length of the content.
    pub fn length_bytes(self) -> u64 {
        self.length
    }

    /// Number of blocks; zero for an empty content.
    pub fn block_count(self) -> u32 {
        self.length.div_ceil(u64::from(BLOCK_BYTES)) as u32
    }

    /// Number of pieces; zero for an empty content.
    pub fn piece_count(self) -> u32 {
        self.length.div_ceil(u64::from(PIECE_BYTES)) as u32
    }

    /// The block with this number, if the content has it.
    pub fn block(self, number: u32) -> Option<BlockIndex> {
        (number < self.block_count()).then_some(BlockIndex(number))
    }

    /// The piece with this number, if the content has it.
    pub fn piece(self, number: u32) -> Option<PieceIndex> {
        (number < self.piece_count()).then_some(PieceIndex(number))
    }

    /// Bytes of a block: [`BLOCK_BYTES`], less for the last one.
    pub fn block_bytes(self, block: BlockIndex) -> u32 {
        self.length.saturating_sub(block.byte_offset()).min(u64::from(BLOCK_BYTES)) as u32
    }

    /// Presence bits of a piece whose blocks are all here.
    pub(crate) fn full_presence(self, piece: PieceIndex) -> u8 {
        let blocks = self.block_count().saturating_sub(piece.0 * BLOCKS_PER_PIECE).min(BLOCKS_PER_PIECE);
        ((1u16 << blocks) - 1) as u8
    }

    /// Bytes of those blocks of a piece whose presence bits are set.
    pub(crate) fn present_bytes(self, piece: PieceIndex, presence: u8) -> u64 {
        (0..BLOCKS_PER_PIECE)
            .filter(|bit| presence & 1 << bit != 0)
            .filter_map(|bit| self.block(piece.0 * BLOCKS_PER_PIECE + bit))
            .map(|block| u64::from(self.block_bytes(block)))
            .sum()
    }

    /// All blocks; `None` for an empty content.
    pub fn whole(self) -> Option<BlockRun> {
        self.run(0, self.block_count())
    }

    /// Blocks `first..end`, if that is not empty and inside the content.
    pub fn run(self, first: u32, end: u32) -> Option<BlockRun> {
        (first < end && end <= self.block_count()).then_some(BlockRun { first, end })
    }

    /// The blocks that a byte range touches; `None` if it is empty or reaches beyond the content.
    pub fn covering(self, bytes: &Range<u64>) -> Option<BlockRun> {
        if bytes.start >= bytes.end || bytes.end > self.length {
            return None;
        }
        let first = (bytes.start / u64::from(BLOCK_BYTES)) as u32;
        let end = bytes.end.div_ceil(u64::from(BLOCK_BYTES)) as u32;
        self.run(first, end)
    }

    /// The blocks that lie whole inside a byte range (the last block of the content counts as whole when the
    /// range reaches the content's end).
    pub fn contained(self, bytes: &Range<u64>) -> Option<BlockRun> {
        let first = bytes.start.div_ceil(u64::from(BLOCK_BYTES));
        let end = if bytes.end >= self.length {
            u64::from(self.block_count())
        } else {
            bytes.end / u64::from(BLOCK_BYTES)
        };
        self.run(u32::try_from(first).ok()?, u32::try_from(end).ok()?)
    }

    /// The bytes of a run.
    pub fn bytes(self, run: BlockRun) -> Range<u64> {
        let start = run.first().byte_offset();
        let end = run.last().byte_offset() + u64::from(self.block_bytes(run.last()));
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_content_has_no_blocks() {
        let layout = Layout::new(0).unwrap();
        assert_eq!((layout.block_count(), layout.piece_count(), layout.whole()), (0, 0, None));
    }

    #[test]
    fn a_content_beyond_the_longest_has_no_layout() {
        assert!(Layout::new(CONTENT_BYTES_MAX).is_some());
        assert!(Layout::new(CONTENT_BYTES_MAX + 1).is_none());
        assert!(Layout::new(u64::MAX).is_none());
    }

    proptest! {
        #[test]
        fn blocks_tile_the_content(length in 1..20_000_000u64) {
            let layout = Layout::new(length).unwrap();
            let whole = layout.whole().unwrap();
            let sum: u64 = whole.blocks().map(|block| u64::from(layout.block_bytes(block))).sum();
            prop_assert_eq!(sum, length);
            prop_assert_eq!(layout.bytes(whole), 0..length);
            let by_piece: u32 = whole.by_piece().map(|(_, run)| run.len()).sum();
            prop_assert_eq!(by_piece, whole.len());
            let presence: u32 = whole.pieces().map(|piece| layout.full_presence(piece).count_ones()).sum();
            prop_assert_eq!(presence, whole.len());
        }

        #[test]
        fn a_covering_run_is_the_shortest_that_holds_the_range(length in 1..CONTENT_BYTES_MAX, a: u64, b: u64) {
            let layout = Layout::new(length).unwrap();
            let (a, b) = (a % length, b % length);
            let range = a.min(b)..a.max(b) + 1;
            let run = layout.covering(&range).unwrap();
            let bytes = layout.bytes(run);
            prop_assert!(bytes.start <= range.start && range.end <= bytes.end);
            prop_assert!(range.start - bytes.start < u64::from(BLOCK_BYTES));
            prop_assert!(bytes.end - range.end < u64::from(BLOCK_BYTES));
            prop_assert_eq!(layout.contained(&bytes), Some(run));
        }

        #[test]
        fn a_run_splits_without_loss(length in 1..50_000_000u64, at in 0..1000u32) {
            let run = Layout::new(length).unwrap().whole().unwrap();
            let rest = run.skip(run.take(at).len()).map_or(0, BlockRun::len);
            prop_assert_eq!(run.take(at).len() + rest, run.len());
        }

        #[test]
        fn a_range_outside_is_refused(length in 0..10_000_000u64, beyond in 1..1000u64) {
            let layout = Layout::new(length).unwrap();
            prop_assert_eq!(layout.covering(&(length..length + beyond)), None);
            prop_assert_eq!(layout.covering(&(0..length + beyond)), None);
            prop_assert_eq!(layout.covering(&(5..5)), None);
        }
    }
}
