//! Pooled buffers of one block.
//!
//! Bytes from the network gather in them until a block is whole; cold reads land in them. A filled buffer is
//! frozen into [`Bytes`], shared by readers and by the write to its slot, and comes back to the pool when the
//! last of them lets go. The pool never holds more than its limit: who finds it empty waits or sheds.
//!
//! All of them are parts of one allocation. One by one, among what else a shard allocates and lets go, they leave
//! holes in the heap that nothing fits into: a node with many slow readers came to 120 MiB of them.
//!
//! What is read from the store goes to clients, and a slow one keeps it for as long as it likes. So at most half of
//! the buffers may be [lent](BlockPool::lend): the other half is for what comes from the network, whoever is slow.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::layout::BLOCK_BYTES;

/// Source of block buffers with a fixed limit; cheap to clone.
#[derive(Clone, Debug)]
pub struct BlockPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The one that came back last is taken first, so that no more of them are ever touched than were in use at once.
    idle: Mutex<Vec<BytesMut>>,
    permits: Arc<Semaphore>,
    /// Buffers that may be lent beside those that are.
    lendable: Arc<Semaphore>,
    blocks_max: usize,
}

impl BlockPool {
    /// A pool of at most `blocks_max` buffers of [`BLOCK_BYTES`]; memory is taken as it is first used.
    pub fn new(blocks_max: usize) -> Self {
        // Zeroed by the system, page by page, when it is touched.
        let mut memory = BytesMut::zeroed(blocks_max * BLOCK_BYTES as usize);
        let idle = (0..blocks_max).map(|_| memory.split_to(BLOCK_BYTES as usize)).collect();
        let permits = Arc::new(Semaphore::new(blocks_max));
        let lendable = Arc::new(Semaphore::new(blocks_max.div_ceil(2)));
        Self { shared: Arc::new(Shared { idle: Mutex::new(idle), permits, lendable, blocks_max }) }
    }

    /// A buffer, at once or not at all.
    pub fn try_take(&self) -> Option<BlockBuffer> {
        let permit = self.shared.permits.clone().try_acquire_owned().ok()?;
        Some(self.buffer(permit, None))
    }

    /// Buffers for clients, all of them at once or none. When half of what may be lent is, there is one at a time:
    /// then many slow clients have little each.
    pub fn lend(&self, blocks: usize) -> Option<Vec<BlockBuffer>> {
        if blocks > 1 && self.lendable_now() < blocks + self.shared.blocks_max / 4 {
            return None;
        }
        let lend = || {
            let lent = self.shared.lendable.clone().try_acquire_owned().ok()?;
            let permit = self.shared.permits.clone().try_acquire_owned().ok()?;
            Some(self.buffer(permit, Some(lent)))
        };
        (0..blocks).map(|_| lend()).collect()
    }

    /// Whether half of what may be lent is.
    pub fn is_lent_out(&self) -> bool {
        self.lendable_now() < self.shared.blocks_max / 4
    }

    fn lendable_now(&self) -> usize {
        self.shared.lendable.available_permits()
    }

    /// A buffer for a client, as soon as one comes back. Who waits is served in turn: a wait that only told that there
    /// is one would be passed on from waiter to waiter, and nobody would ever have it.
    pub async fn lend_one(&self) -> BlockBuffer {
        let lent = self.shared.lendable.clone().acquire_owned().await;
        let permit = self.shared.permits.clone().acquire_owned().await;
        match (permit, lent) {
            (Ok(permit), Ok(lent)) => self.buffer(permit, Some(lent)),
            _ => unreachable!("the pool never closes its semaphores"),
        }
    }

    /// A buffer, as soon as one comes back.
    pub async fn take(&self) -> BlockBuffer {
        match self.shared.permits.clone().acquire_owned().await {
            Ok(permit) => self.buffer(permit, None),
            Err(_) => unreachable!("the pool never closes its semaphore"),
        }
    }

    /// Buffers that can be in use at a time.
    pub fn limit(&self) -> usize {
        self.shared.blocks_max
    }

    /// Buffers in use now.
    pub fn in_use(&self) -> usize {
        self.shared.blocks_max - self.shared.permits.available_permits()
    }

    fn buffer(&self, permit: OwnedSemaphorePermit, lent: Option<OwnedSemaphorePermit>) -> BlockBuffer {
        let idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(data) = idle else { unreachable!("there are as many buffers as permits") };
        BlockBuffer { data, shared: self.shared.clone(), _permit: permit, _lent: lent }
    }
}

/// One buffer of [`BLOCK_BYTES`], owned. Its contents are those of its last user.
#[derive(Debug)]
pub struct BlockBuffer {
    data: BytesMut,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
    _lent: Option<OwnedSemaphorePermit>,
}

impl BlockBuffer {
    /// All of the buffer, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The first `filled` bytes as shared bytes.
    pub fn freeze(self, filled: usize) -> Bytes {
        Bytes::from_owner(self).slice(..filled)
    }
}

impl AsRef<[u8]> for BlockBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for BlockBuffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_until_the_last_share_is_dropped() {
        let pool = BlockPool::new(1);
        let bytes = pool.try_take().unwrap().freeze(100);
        let share = bytes.slice(10..20);
        drop(bytes);
        assert!(pool.try_take().is_none());
        drop(share);
        assert!(pool.try_take().is_some());
    }

    #[test]
    fn clients_do_not_get_the_half_that_fetches_need() {
        let pool = BlockPool::new(16);
        let long = pool.lend(4).unwrap();
        assert!(pool.lend(2).is_none(), "from here on one by one");
        let short: Vec<_> = (0..4).map(|_| pool.lend(1).unwrap()).collect();
        assert!(pool.lend(1).is_none());
        let fetched: Vec<_> = (0..8).map(|_| pool.try_take().unwrap()).collect();
        assert!(pool.try_take().is_none());
        drop((short, fetched));
        assert!(pool.lend(1).is_some());
        drop(long);
        assert!(pool.lend(4).is_some());
    }
}
