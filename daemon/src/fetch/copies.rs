//! Copies of blocks for readers that may be slow, when the pool's buffers are what fetches need to go on.

use bytes::Bytes;
use darter_engine::buffer::BlockPool;

/// Copies alive on one shard: 16 MiB.
const COPIES_MAX: usize = 256;

/// Bounds the copies of one shard.
#[derive(Debug)]
pub(super) struct Copies {
    /// Beside that of the node, of which fetches take their buffers.
    pool: BlockPool,
}

impl Copies {
    pub(super) fn new() -> Self {
        Self { pool: BlockPool::new(COPIES_MAX) }
    }

    /// The same bytes, of one block, outside of the node's pool; `None` when there are too many already.
    pub(super) fn copy(&self, bytes: &Bytes) -> Option<Bytes> {
        let mut copy = self.pool.try_take()?;
        copy.as_mut_slice().get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(copy.freeze(bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_until_one_is_let_go() {
        let copies = Copies::new();
        let bytes = Bytes::from_static(b"x");
        let mut held: Vec<_> = (0..COPIES_MAX).map(|_| copies.copy(&bytes).unwrap()).collect();
        assert_eq!(copies.copy(&bytes), None);
        held.pop();
        assert_eq!(copies.copy(&bytes), Some(bytes));
    }
}
