//! Bytes of a body → whole blocks: pure, but for the pool that its buffers come from.

use bytes::Bytes;
use darter_engine::buffer::{BlockBuffer, BlockPool};
use darter_engine::{BlockIndex, BlockRun, Layout};

/// Collects the bytes of a run, in order, into whole blocks.
#[derive(Debug)]
pub(super) struct Gather {
    layout: Layout,
    run: BlockRun,
    /// Next byte of the content.
    position: u64,
    filling: Option<BlockBuffer>,
    filled: usize,
}

impl Gather {
    pub(super) fn new(layout: Layout, run: BlockRun) -> Self {
        Self { layout, run, position: layout.bytes(run).start, filling: None, filled: 0 }
    }

    /// The next byte that is missing. A broken body is resumed from here.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the run that are missing.
    pub(super) fn left(&self) -> std::ops::Range<u64> {
        self.position..self.layout.bytes(self.run).end
    }

    /// The blocks that are not whole yet; `None` when all are.
    pub(super) fn left_blocks(&self) -> Option<BlockRun> {
        let block = (self.position / u64::from(darter_engine::BLOCK_BYTES)) as u32;
        self.layout.block(block).and_then(|block| self.run.starting_at(block))
    }

    /// Takes bytes from the front of `chunk`, which must begin at [`Self::position`], until a block is whole or the
    /// chunk is used up. Waits for a buffer when the pool is empty.
    pub(super) async fn push(&mut self, chunk: &mut Bytes, pool: &BlockPool) -> Option<(BlockIndex, Bytes)> {
        let block = self.left_blocks()?.first();
        let wanted = self.layout.block_bytes(block) as usize;
        let mut buffer = match self.filling.take() {
            Some(buffer) => buffer,
            None => pool.take().await,
        };
        let part = chunk.split_to(chunk.len().min(wanted - self.filled));
        buffer.as_mut_slice()[self.filled..self.filled + part.len()].copy_from_slice(&part);
        self.filled += part.len();
        self.position += part.len() as u64;
        if self.filled < wanted {
            self.filling = Some(buffer);
            return None;
        }
        self.filled = 0;
        Some((block, buffer.freeze(wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_of_any_size_become_the_blocks_of_the_run(
            length in 1..700_000u64, first in 0..8u32, cuts in prop::collection::vec(1..100_000usize, 1..20),
        ) {
            let layout = Layout::new(length).unwrap();
            let first = first % layout.block_count();
            let run = layout.run(first, layout.block_count()).unwrap();
            let whole: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let blocks = runtime.block_on(async {
                let pool = BlockPool::new(4);
                let mut gather = Gather::new(layout, run);
                let mut blocks = Vec::new();
                let mut cuts = cuts.into_iter().cycle();
                while !gather.left().is_empty() {
                    let end = length.min(gather.position() + cuts.next().unwrap() as u64);
                    let mut chunk = Bytes::copy_from_slice(&whole[gather.position() as usize..end as usize]);
                    while !chunk.is_empty() {
                        if let Some((block, bytes)) = gather.push(&mut chunk, &pool).await {
                            blocks.push((block, bytes.to_vec()));
                        }
                    }
                }
                blocks
            });
            prop_assert_eq!(blocks.len() as u32, run.len());
            for (block, bytes) in blocks {
                let at = block.byte_offset() as usize;
                prop_assert_eq!(&bytes[..], &whole[at..at + layout.block_bytes(block) as usize]);
            }
        }
    }
}
