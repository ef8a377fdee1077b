//! How far a content's SHA-256 has been fed, in order.
//!
//! The digest of a blob can be checked only when the blob is whole. A running hash is fed block by block as the
//! frontier grows: from the network's bytes when they come in order, else from the store. A block that is
//! written *behind* the frontier starts it anew: what the hash has seen is no longer what is held.
//!
//! [`Frontier::advance`] is called by the hasher thread only; the rest by anyone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::content::Verification;
use crate::content_id::ContentId;
use crate::layout::{BlockIndex, Layout};

/// Blocks from the network that wait for their turn: 1 MiB for each content.
const FED_BLOCKS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Frontier {
    /// Next block to hash; the number of blocks once all are.
    next: AtomicU32,
    verdict: AtomicU8,
    stalled: AtomicBool,
    /// Raised by a write behind the frontier.
    epoch: AtomicU32,
    /// In the hasher's queue.
    queued: AtomicBool,
    fed: Mutex<BTreeMap<u32, Bytes>>,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    epoch: u32,
    sha256: Sha256,
}

const PENDING: u8 = 0;
const PASSED: u8 = 1;
const WRONG: u8 = 2;

/// What an advance came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Advance {
    /// A block is missing, or was hashed and more are to come.
    Pending,
    /// The digest is right.
    Passed,
    /// The digest is wrong.
    Wrong,
}

impl Frontier {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn passed(layout: Layout) -> Self {
        let frontier = Self::default();
        frontier.next.store(layout.block_count(), Ordering::Relaxed);
        frontier.verdict.store(PASSED, Ordering::Relaxed);
        frontier
    }

    pub(crate) fn verification(&self, layout: Layout) -> Verification {
        match self.verdict.load(Ordering::Acquire) {
            PASSED => Verification::Passed,
            WRONG => Verification::Wrong,
            _ => match layout.block(self.next.load(Ordering::Acquire)) {
                Some(next) => Verification::Pending {
                    next,
                    // What is queued will be looked at again with all that was written since.
                    stalled: self.stalled.load(Ordering::Acquire) && !self.queued.load(Ordering::Acquire),
                },
                // All are hashed and the verdict is about to be stored; an empty content is right or wrong by
                // its name alone, and counts as pending until someone has looked.
                None => match layout.block(layout.block_count().wrapping_sub(1)) {
                    Some(next) => Verification::Pending { next, stalled: false },
                    None => Verification::Passed,
                },
            },
        }
    }

    /// True if it was not in the hasher's queue before.
    pub(crate) fn enter_queue(&self) -> bool {
        !self.queued.swap(true, Ordering::AcqRel)
    }

    /// Called before the work, so that a block written during it brings the content back.
    pub(crate) fn leave_queue(&self) {
        self.stalled.store(false, Ordering::Release);
        self.queued.store(false, Ordering::Release);
    }

    /// A block's bytes from the network, for when they come in order. Too many or too early ones are let go:
    /// the store has them.
    pub(crate) fn feed(&self, block: BlockIndex, bytes: Bytes) {
        let next = self.next.load(Ordering::Acquire);
        if block.number() < next || block.number() - next >= FED_BLOCKS_MAX as u32 {
            return;
        }
        let mut fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        fed.insert(block.number(), bytes);
        while fed.len() > FED_BLOCKS_MAX {
            fed.pop_last();
        }
    }

    /// A block is about to be written. Behind the frontier, the hash starts anew; true if a verdict fell with it.
    pub(crate) fn note_write(&self, block: BlockIndex) -> bool {
        if block.number() >= self.next.load(Ordering::Acquire) {
            return false;
        }
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.next.store(0, Ordering::Release);
        self.verdict.swap(PENDING, Ordering::AcqRel) != PENDING
    }

    /// Hashes as many blocks as there are, at most `blocks_max`. `read` brings a block from the store.
    pub(crate) fn advance(
        &self,
        layout: Layout,
        id: &ContentId,
        blocks_max: usize,
        mut read: impl FnMut(BlockIndex) -> Option<Bytes>,
    ) -> Advance {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Acquire);
        if running.epoch != epoch {
            *running = Running { epoch, sha256: Sha256::new() };
            self.next.store(0, Ordering::Release);
        }
        for _ in 0..blocks_max {
            let Some(block) = layout.block(self.next.load(Ordering::Acquire)) else { break };
            let Some(bytes) = self.take_fed(block).or_else(|| read(block)) else {
                self.stalled.store(true, Ordering::Release);
                return Advance::Pending;
            };
            running.sha256.update(&bytes);
            if self.epoch.load(Ordering::Acquire) != epoch {
                return Advance::Pending;
            }
            self.next.store(block.number() + 1, Ordering::Release);
        }
        if self.next.load(Ordering::Acquire) < layout.block_count() {
            return Advance::Pending;
        }
        let right = running.sha256.clone().finalize().as_slice() == id.as_bytes();
        self.verdict.store(if right { PASSED } else { WRONG }, Ordering::Release);
        if self.epoch.load(Ordering::Acquire) != epoch {
            self.verdict.store(PENDING, Ordering::Release);
            return Advance::Pending;
        }
        if right { Advance::Passed } else { Advance::Wrong }
    }

    fn take_fed(&self, block: BlockIndex) -> Option<Bytes> {
        let mut fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = fed.split_off(&block.number());
        *fed = keep;
        fed.remove(&block.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(blocks: u32) -> (Layout, Vec<Bytes>, ContentId) {
        let layout = Layout::new(u64::from(blocks) * 65536 - 100).unwrap();
        let bytes: Vec<Bytes> = layout
            .whole()
            .unwrap()
            .blocks()
            .map(|block| Bytes::from(vec![block.number() as u8; layout.block_bytes(block) as usize]))
            .collect();
        let id = ContentId::from_bytes(Sha256::digest(bytes.concat()).into());
        (layout, bytes, id)
    }

    #[test]
    fn blocks_in_any_order_end_in_a_verdict() {
        let (layout, bytes, id) = content(5);
        let frontier = Frontier::new();
        let at = |number: u32| layout.block(number).unwrap();
        frontier.feed(at(1), bytes[1].clone());
        assert_eq!(frontier.advance(layout, &id, 64, |_| None), Advance::Pending);
        assert_eq!(frontier.verification(layout), Verification::Pending { next: at(0), stalled: true });
        frontier.feed(at(0), bytes[0].clone());
        frontier.advance(layout, &id, 64, |_| None);
        assert_eq!(frontier.verification(layout), Verification::Pending { next: at(2), stalled: true });
        let from_store = |block: BlockIndex| Some(bytes[block.number() as usize].clone());
        assert_eq!(frontier.advance(layout, &id, 64, from_store), Advance::Passed);
        assert_eq!(frontier.verification(layout), Verification::Passed);
    }

    #[test]
    fn one_wrong_byte_is_wrong() {
        let (layout, mut bytes, id) = content(3);
        bytes[1] = Bytes::from(vec![9; 65536]);
        let from_store = |block: BlockIndex| Some(bytes[block.number() as usize].clone());
        assert_eq!(Frontier::new().advance(layout, &id, 64, from_store), Advance::Wrong);
    }

    #[test]
    fn a_block_written_behind_the_frontier_takes_the_verdict_back() {
        let (layout, bytes, id) = content(3);
        let frontier = Frontier::new();
        let from_store = |block: BlockIndex| Some(bytes[block.number() as usize].clone());
        frontier.advance(layout, &id, 64, from_store);
        assert!(frontier.note_write(layout.block(1).unwrap()));
        assert!(matches!(frontier.verification(layout), Verification::Pending { .. }));
        assert_eq!(frontier.advance(layout, &id, 64, from_store), Advance::Passed);
    }

    #[test]
    fn a_write_in_front_of_the_frontier_changes_nothing() {
        let (layout, bytes, id) = content(3);
        let frontier = Frontier::new();
        frontier.feed(layout.block(0).unwrap(), bytes[0].clone());
        frontier.advance(layout, &id, 64, |_| None);
        assert!(!frontier.note_write(layout.block(1).unwrap()));
    }
}
