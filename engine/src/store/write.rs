//! Blocks into the store: claimed, written by one operation per run of neighbours, published.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Inner, Reservation, Store};
use crate::content::Content;
use crate::content_id::{RegistryScope, Scope};
use crate::format::Geometry;
use crate::frontier::Noted;
use crate::hashed_block::HashedBlock;
use crate::index::Rescoped;
use crate::layout::{BLOCK_BYTES, BlockIndex, PIECE_BYTES};
use crate::ring::{self, WriteOp};
use crate::slot::SlotIndex;

/// Part of the block buffers that may be on their way to the disk: a quarter. A disk that is slower than the network
/// would else take them all, and what comes would wait for the disk.
const WRITING_SHARE: u64 = 4;

/// Why blocks cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The content was removed meanwhile, or the reservation does not cover the blocks.
    #[error("the content was removed while it was written")]
    Gone,
    /// The content is unverified and belongs to another registry: serve the bytes unkept.
    #[error("the content belongs to another registry until its digest is checked")]
    OtherRegistry,
    /// The disk refused; the pieces touched are given up.
    #[error("cannot write to a slab: {0}")]
    Disk(#[from] io::Error),
}

impl Store {
    /// Whether so much is on its way to the disk that what comes is to be served and not kept.
    pub fn is_behind(&self) -> bool {
        let writing = self.inner.counters.writing_blocks.load(Ordering::Relaxed);
        writing >= self.inner.pool.limit() as u64 / WRITING_SHARE
    }

    /// Writes whole blocks, in order from `first` on, to the reserved slots, publishes them and lets the running
    /// digest go on. Blocks that are present already, or are just being written by someone else, are passed over.
    /// `registry` is where the bytes came from (`scheme://host:port`).
    ///
    /// The blocks count as present as soon as this returns, and as durable some time later.
    ///
    /// # Errors
    /// Nothing more is kept of this content, or not from this registry; or the disk refuses.
    pub async fn write(
        &self,
        reservation: &Arc<Reservation>,
        first: BlockIndex,
        blocks: Vec<HashedBlock>,
        registry: &str,
    ) -> Result<(), WriteError> {
        self.inner.write(reservation, first, blocks, registry).await
    }
}

impl Inner {
    async fn write(
        self: &Arc<Self>,
        reservation: &Arc<Reservation>,
        first: BlockIndex,
        blocks: Vec<HashedBlock>,
        registry: &str,
    ) -> Result<(), WriteError> {
        let content = &reservation.content;
        let layout = content.layout();
        let run = layout.run(first.number(), first.number() + blocks.len() as u32).ok_or(WriteError::Gone)?;
        let scope = RegistryScope::of_origin(registry);
        let mut wanted: Vec<NewBlock> = Vec::with_capacity(blocks.len());
        for (block, hashed) in run.blocks().zip(blocks) {
            assert_eq!(hashed.bytes().len(), layout.block_bytes(block) as usize, "blocks are written whole");
            let slot = *reservation.slots.get(&block.piece()).ok_or(WriteError::Gone)?;
            let Some(claim) = Claim::take(reservation, slot, block) else { continue };
            let noted = content.frontier.note_write(block, hashed.blake3());
            match noted {
                Noted::Pending | Noted::Proved => {}
                Noted::Wrong => return Err(WriteError::Gone),
                Noted::VerdictFell => self.fall_back_to(content, registry),
            }
            if content.is_gone() {
                return Err(WriteError::Gone);
            }
            // What is part of the proved content is so whoever brings it.
            if noted != Noted::Proved && !content.takes_bytes_of(scope) {
                return Err(WriteError::OtherRegistry);
            }
            let crc32 = crc32fast::hash(hashed.bytes());
            wanted.push(NewBlock { block, slot, crc32, hashed, claim });
        }
        for group in neighbours(self.geometry, wanted) {
            let written: usize = group.iter().map(|new| new.hashed.bytes().len()).sum();
            let (slab, slot_offset) = self.place_of(group[0].slot);
            let op = WriteOp {
                file: self.slabs[slab as usize].file().clone(),
                offset: slot_offset as u64 + u64::from(group[0].block.in_piece()) * u64::from(BLOCK_BYTES),
                bytes: group.iter().map(|new| new.hashed.bytes().clone()).collect(),
                guard: group.iter().map(|new| new.claim.clone()).collect::<Vec<_>>(),
            };
            // Looked at before, because a write would make a slab that was cut short longer; and after, because it
            // may have been cut meanwhile.
            let slab = &self.slabs[slab as usize];
            let done = if slab.is_whole() { ring::write(self.backend, op).await } else { Err(slab_failed()) };
            let kept = done.and_then(|()| slab.is_whole().then_some(()).ok_or_else(slab_failed));
            if let Err(error) = kept {
                if slab.has_failed() {
                    self.keeper.slab_failed();
                }
                group.iter().for_each(|new| self.lose(content, new.block, new.slot));
                return Err(error.into());
            }
            self.counters.written_bytes.fetch_add(written as u64, Ordering::Relaxed);
            for new in group {
                self.slots.publish(new.slot, new.block, new.crc32);
                let generation = self.slots.word(new.slot).generation;
                self.keeper.written(new.slot, generation, new.block, *new.hashed.blake3());
            }
        }
        self.hasher.enqueue(content);
        Ok(())
    }

    /// What was proved no longer is: the content belongs to the registry of its newest bytes until the digest is
    /// right again.
    fn fall_back_to(&self, content: &Arc<Content>, registry: &str) {
        let scope = content.set_registry(registry);
        if self.index.rescope(content, Scope::Registry(scope)) == Rescoped::Taken {
            self.remove(content);
        }
        self.keeper.note_content(content);
    }
}

fn slab_failed() -> io::Error {
    io::Error::other("its file was cut short or cannot be read")
}

/// The right to write one block, held until the kernel is done with it.
struct Claim {
    reservation: Arc<Reservation>,
    slot: SlotIndex,
    block: BlockIndex,
}

impl Claim {
    fn take(reservation: &Arc<Reservation>, slot: SlotIndex, block: BlockIndex) -> Option<Arc<Self>> {
        if !reservation.inner.slots.claim(slot, block) {
            return None;
        }
        reservation.inner.counters.writing_blocks.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Self { reservation: reservation.clone(), slot, block }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While the reservation's lease still lives.
        self.reservation.inner.slots.disclaim(self.slot, self.block);
        self.reservation.inner.counters.writing_blocks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A block on its way to its slot.
struct NewBlock {
    claim: Arc<Claim>,
    block: BlockIndex,
    slot: SlotIndex,
    hashed: HashedBlock,
    crc32: u32,
}

impl NewBlock {
    /// First byte over all slabs.
    fn position(&self) -> u64 {
        u64::from(self.slot.0) * u64::from(PIECE_BYTES)
            + u64::from(self.block.in_piece()) * u64::from(BLOCK_BYTES)
    }
}

/// Groups of blocks that lie one behind the other on disk, in one slab.
fn neighbours(geometry: Geometry, blocks: Vec<NewBlock>) -> Vec<Vec<NewBlock>> {
    let mut groups: Vec<Vec<NewBlock>> = Vec::new();
    for new in blocks {
        let follows = groups.last().and_then(|group| group.last()).is_some_and(|last| {
            last.position() + u64::from(BLOCK_BYTES) == new.position()
                && geometry.slab_of(last.slot.0) == geometry.slab_of(new.slot.0)
        });
        match groups.last_mut() {
            Some(group) if follows => group.push(new),
            _ => groups.push(vec![new]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Backend;
    use crate::small_store;

    /// A disk at 1 MiB/s once had all block buffers, and the network waited for it.
    #[test]
    fn a_quarter_of_the_buffers_may_be_on_their_way_to_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let store = small_store::open(directory.path(), Backend::Pool, 16);
        let content = store.create(&small_store::spec(&small_store::sample(1, 1 << 20))).unwrap();
        let layout = content.layout();
        let run = layout.whole().unwrap();
        let reserved = ring::run_shard(Backend::Pool, store.reserve(&content, run)).unwrap();
        let reservation = Arc::new(reserved.unwrap());
        let mut writing: Vec<_> = (0..4)
            .map(|number| {
                assert!(!store.is_behind());
                let block = layout.block(number).unwrap();
                Claim::take(&reservation, reservation.slots[&block.piece()], block).unwrap()
            })
            .collect();
        assert!(store.is_behind());
        writing.pop();
        assert!(!store.is_behind());
        drop((writing, reservation));
        store.close();
    }
}
