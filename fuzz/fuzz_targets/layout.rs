//! A content's length and a byte range of it: blocks and pieces.
//!
//! The blocks of a range cover it and no block more; cut by piece, and split anywhere, a run loses nothing. A range
//! that is empty or reaches beyond the content has no blocks.
#![no_main]

use darter_engine::layout::BLOCKS_PER_PIECE;
use darter_engine::{BLOCK_BYTES, BlockRun, Layout};
use libfuzzer_sys::fuzz_target;

/// Runs longer than this are not walked block by block.
const WALKED_BLOCKS_MAX: u32 = 1 << 12;

fuzz_target!(|input: (u64, u64, u64, u32)| {
    let (length_bytes, start, end, at) = input;
    let Some(layout) = Layout::new(length_bytes) else { return };
    assert_eq!(layout.block_count().div_ceil(BLOCKS_PER_PIECE), layout.piece_count());
    assert_eq!(layout.whole().is_none(), length_bytes == 0);
    // Half of all inputs would lie outside; these are brought in.
    let (start, end) = if at & 1 == 0 { (start, end) } else { inside(length_bytes, start, end) };
    let Some(run) = layout.covering(&(start..end)) else {
        assert!(start >= end || end > length_bytes);
        return;
    };
    let bytes = layout.bytes(run);
    assert!(bytes.start <= start && end <= bytes.end && bytes.end <= length_bytes);
    assert!(start - bytes.start < u64::from(BLOCK_BYTES) && bytes.end - end < u64::from(BLOCK_BYTES));
    assert_eq!(layout.contained(&bytes), Some(run));
    if let Some(whole_blocks) = layout.contained(&(start..end)) {
        let inner = layout.bytes(whole_blocks);
        assert!(start <= inner.start && inner.end <= end);
    }
    split(run, at);
    if run.len() <= WALKED_BLOCKS_MAX {
        walk(layout, run);
    }
});

fn inside(length_bytes: u64, start: u64, end: u64) -> (u64, u64) {
    let length = length_bytes.max(1);
    let (start, end) = (start % length, end % length);
    (start.min(end), start.max(end) + 1)
}

fn split(run: BlockRun, at: u32) {
    let head = run.take(at);
    assert_eq!(head.first(), run.first());
    match run.skip(head.len()) {
        Some(tail) => {
            assert_eq!(head.len() + tail.len(), run.len());
            assert_eq!(head.last().number() + 1, tail.first().number());
            assert_eq!(run.starting_at(tail.first()), Some(tail));
            assert!(!head.contains(tail.first()));
        }
        None => assert_eq!(head, run),
    }
}

fn walk(layout: Layout, run: BlockRun) {
    let bytes = layout.bytes(run);
    let sum: u64 = run.blocks().map(|block| u64::from(layout.block_bytes(block))).sum();
    assert_eq!(sum, bytes.end - bytes.start);
    let mut next = run.first().number();
    for (piece, part) in run.by_piece() {
        assert_eq!(part.first().number(), next);
        assert!(part.blocks().all(|block| block.piece() == piece));
        next = part.last().number() + 1;
    }
    assert_eq!(next, run.last().number() + 1);
}
