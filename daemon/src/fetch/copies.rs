//! Copies of blocks for readers that may be slow, when the pool's buffers are what fetches need to go on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Copies alive on one shard: 16 MiB.
const COPIES_MAX: usize = 256;

/// Bounds the copies of one shard.
#[derive(Debug)]
pub(super) struct Copies {
    places: Arc<Semaphore>,
}

struct Copy {
    bytes: Box<[u8]>,
    _place: OwnedSemaphorePermit,
}

impl Copies {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(COPIES_MAX)) }
    }

    /// The same bytes outside of the pool; `None` when there are too many already.
    pub(super) fn copy(&self, bytes: &Bytes) -> Option<Bytes> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some(Bytes::from_owner(Copy { bytes: bytes[..].into(), _place: place }))
    }
}

impl AsRef<[u8]> for Copy {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
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
