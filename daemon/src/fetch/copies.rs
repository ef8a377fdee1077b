//! Copies of blocks for readers that may be slow, when the pool's buffers are what fetches need to go on.

use bytes::Bytes;
use darter_engine::BLOCK_BYTES;
use darter_engine::buffer::BlockPool;

/// Of all copies alive in a node: 32 MiB.
const BYTES_MAX: u64 = 32 << 20;

/// Bounds the copies of one node; cheap to clone, for all shards.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    /// Beside that of the node, of which fetches take their buffers.
    pool: BlockPool,
}

impl Copies {
    /// As many as fit into an eighth of the memory that the node may take.
    pub(crate) fn within(memory_max: Option<u64>) -> Self {
        Self { pool: BlockPool::new(copies_max(memory_max)) }
    }

    /// The same bytes, of one block, outside of the node's pool; `None` when there are too many already.
    pub(super) fn copy(&self, bytes: &Bytes) -> Option<Bytes> {
        let mut copy = self.pool.try_take()?;
        copy.as_mut_slice().get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(copy.freeze(bytes.len()))
    }
}

fn copies_max(memory_max: Option<u64>) -> usize {
    let bytes = memory_max.map_or(BYTES_MAX, |memory| BYTES_MAX.min(memory / 8));
    (bytes / u64::from(BLOCK_BYTES)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_until_one_is_let_go() {
        let copies = Copies::within(Some(2 << 20));
        let bytes = Bytes::from_static(b"x");
        let mut held: Vec<_> = (0..4).map(|_| copies.copy(&bytes).unwrap()).collect();
        assert_eq!(copies.clone().copy(&bytes), None, "of all shards");
        held.pop();
        assert_eq!(copies.copy(&bytes), Some(bytes));
    }

    #[test]
    fn copies_follow_memory() {
        assert_eq!(copies_max(None), 512);
        assert_eq!(copies_max(Some(1 << 40)), 512);
        assert_eq!(copies_max(Some(128 << 20)), 256);
    }
}
