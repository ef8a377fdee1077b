//! A content as a row of cells, each of them some of its pieces: how much of it is here, and how much is coming. Pure.
//!
//! What has forty thousand pieces fits into a line of a screen that way, and into an answer of some hundred bytes.

use darter_engine::{BLOCK_BYTES, Layout, PIECE_BYTES};
use serde::{Deserialize, Serialize};

/// Cells of one content at most.
pub(super) const CELLS_MAX: u32 = 512;

const BLOCKS_PER_PIECE: u32 = PIECE_BYTES / BLOCK_BYTES;

/// A digit for each cell, in the order of the bytes: 0 is nothing of it, 9 all of it, and the others are what is
/// between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CellsInfo {
    /// Is in the store.
    pub(crate) held: String,
    /// Is on its way.
    pub(crate) coming: String,
}

/// Cells that are being filled.
pub(super) struct Cells {
    layout: Layout,
    held_blocks: Vec<u32>,
    coming_blocks: Vec<u32>,
}

impl Cells {
    /// At most so many, of whole pieces, for nothing yet.
    pub(super) fn of(layout: Layout, cells_max: u32) -> Self {
        let count = layout.piece_count().min(cells_max.min(CELLS_MAX)) as usize;
        Self { layout, held_blocks: vec![0; count], coming_blocks: vec![0; count] }
    }

    /// So many blocks of the piece with that number are here.
    pub(super) fn held(&mut self, piece: u32, blocks: u32) {
        add(self.layout, &mut self.held_blocks, piece, blocks);
    }

    /// The block with that number is on its way.
    pub(super) fn coming(&mut self, block: u32) {
        add(self.layout, &mut self.coming_blocks, block / BLOCKS_PER_PIECE, 1);
    }

    pub(super) fn end(self) -> CellsInfo {
        let (layout, count) = (self.layout, self.held_blocks.len() as u64);
        // The last piece may have fewer blocks than others.
        let blocks_before = |cell: u32| {
            let pieces_before =
                (u64::from(cell) * u64::from(layout.piece_count())).div_ceil(count.max(1)) as u32;
            layout.block_count().min(pieces_before.saturating_mul(BLOCKS_PER_PIECE))
        };
        let digits = |blocks: Vec<u32>| {
            let digit = |(cell, sum)| digit(sum, blocks_before(cell + 1) - blocks_before(cell));
            (0..).zip(blocks).map(digit).collect()
        };
        CellsInfo { held: digits(self.held_blocks), coming: digits(self.coming_blocks) }
    }
}

fn add(layout: Layout, cells: &mut [u32], piece: u32, blocks: u32) {
    let at = u64::from(piece) * cells.len() as u64 / u64::from(layout.piece_count().max(1));
    if let Some(sum) = cells.get_mut(at as usize) {
        *sum = sum.saturating_add(blocks);
    }
}

/// 0 and 9 for nothing and all alone.
fn digit(blocks: u32, of: u32) -> char {
    match blocks {
        0 => '0',
        _ if blocks >= of => '9',
        _ => char::from_digit((u64::from(blocks) * 10 / u64::from(of)).clamp(1, 8) as u32, 10).unwrap_or('8'),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cells(
        layout: Layout,
        cells_max: u32,
        held: impl Iterator<Item = (u32, u32)>,
        coming: &[u32],
    ) -> CellsInfo {
        let mut cells = Cells::of(layout, cells_max);
        held.for_each(|(piece, blocks)| cells.held(piece, blocks));
        coming.iter().for_each(|block| cells.coming(*block));
        cells.end()
    }

    /// Of a content of so many blocks.
    fn check(blocks: u32, cells_max: u32, held: &[(u32, u32)], coming: &[u32], expected: (&str, &str)) {
        let layout = Layout::new(u64::from(blocks) * u64::from(BLOCK_BYTES)).unwrap();
        let found = cells(layout, cells_max, held.iter().copied(), coming);
        assert_eq!((&*found.held, &*found.coming), expected);
    }

    #[test]
    fn a_small_content_has_a_cell_for_each_piece() {
        check(10, 100, &[(0, 4), (1, 1), (2, 2)], &[5, 6], ("929", "050"));
        check(0, 100, &[], &[], ("", ""));
        check(1, 1, &[(0, 1)], &[], ("9", "0"));
    }

    #[test]
    fn a_large_content_has_pieces_together() {
        check(16, 2, &[(0, 4), (1, 4), (2, 1)], &[13, 14, 15], ("91", "03"));
        // Three pieces in two cells: two and one.
        check(12, 2, &[(0, 4), (1, 3)], &[], ("80", "00"));
    }

    #[test]
    fn what_is_out_of_bounds_is_no_panic() {
        check(4, 8, &[(77, 4)], &[u32::MAX], ("0", "0"));
        check(4, 0, &[(0, 4)], &[0], ("", ""));
    }

    proptest! {
        #[test]
        fn all_is_nine_and_nothing_is_zero(length in 1..500_000_000u64, cells_max in 1..600u32) {
            let layout = Layout::new(length).unwrap();
            let blocks: Vec<u32> = (0..layout.block_count()).collect();
            let held = (0..layout.piece_count()).map(|piece| {
                (piece, BLOCKS_PER_PIECE.min(layout.block_count() - piece * BLOCKS_PER_PIECE))
            });
            let found = cells(layout, cells_max, held, &blocks);
            let expected = cells_max.min(CELLS_MAX).min(layout.piece_count()) as usize;
            prop_assert_eq!(&found.held, &"9".repeat(expected));
            prop_assert_eq!(&found.coming, &found.held);
            let none = cells(layout, cells_max, std::iter::empty(), &[]);
            prop_assert_eq!(none.held, "0".repeat(expected));
        }
    }
}
