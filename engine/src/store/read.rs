//! Blocks out of the store: leased, checked, and lent as slices of the mapping or read into buffers.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Inner, Store};
use crate::buffer::BlockBuffer;
use crate::clock;
use crate::content::Content;
use crate::content_id::RegistryScope;
use crate::device::{is_cut, is_the_disks};
use crate::layout::{BLOCK_BYTES, BlockIndex, BlockRun, PieceIndex};
use crate::ring::{self, ReadOp};
use crate::slab::Lent;
use crate::slot::{Leases, SlotIndex};

/// Why blocks cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This block is not here (any more): fetch it.
    #[error("block {} is not in the store", .0.number())]
    Absent(BlockIndex),
    /// All block buffers are in use: shed, or wait for one with [`Store::read_one`].
    #[error("all block buffers are in use")]
    NoBuffers,
}

impl Store {
    /// Whether the block is here now for a reader under that registry. It may be gone by the time it is read.
    pub fn has(&self, content: &Content, registry: RegistryScope, block: BlockIndex) -> bool {
        let here = content
            .slot_of(block.piece())
            .is_some_and(|slot| self.inner.slots.presence(slot) & 1 << block.in_piece() != 0);
        here && content.serves(registry)
    }

    /// The part of the run, from its start on, that is here now for a reader under that registry: `None` if the
    /// first block is not.
    pub fn present_prefix(
        &self,
        content: &Content,
        registry: RegistryScope,
        run: BlockRun,
    ) -> Option<BlockRun> {
        let present = run.blocks().take_while(|block| self.has(content, registry, *block)).count() as u32;
        (present > 0).then(|| run.take(present))
    }

    /// Whether clients hold so much of what they were lent, and have not read, that others wait for it.
    pub fn is_lent_out(&self) -> bool {
        !self.inner.may_lend() || self.inner.pool.is_lent_out()
    }

    /// The bytes of a run of blocks, in order, each block checked against its crc32 unless it was within the last
    /// second. Slices of the mapping where the pages are in memory, buffers filled by one read elsewhere.
    ///
    /// Slices may be longer or shorter than a block; together they are the run's bytes.
    ///
    /// # Errors
    /// A block is not here, or not for readers under that registry.
    pub async fn read(
        &self,
        content: &Content,
        registry: RegistryScope,
        run: BlockRun,
    ) -> Result<Vec<Bytes>, ReadError> {
        self.inner.note_used(content);
        let mut bytes = Vec::new();
        let extents = self.inner.extents(content, run, Touch::Counts)?;
        // After the look at presence: bytes of another registry are published only after the scope has changed.
        if !content.serves(registry) {
            return Err(ReadError::Absent(run.first()));
        }
        for extent in extents {
            if let Some(hot) = self.inner.read_hot(content, &extent)? {
                self.inner.counters.hot_reads.fetch_add(1, Ordering::Relaxed);
                bytes.push(Bytes::from_owner(hot.lend(&self.inner, extent)));
            } else {
                let buffers = self.inner.lend(&extent)?;
                self.inner.read_cold(content, extent, buffers, &mut bytes).await?;
            }
        }
        Ok(bytes)
    }

    /// One block as [`Store::read`] has it, as soon as there is a buffer: for those who were told that there is none.
    /// They are served in the order in which they came, and hold nothing meanwhile.
    ///
    /// # Errors
    /// As [`Store::read`]; that there are no buffers only where the system is out of memory.
    pub async fn read_one(
        &self,
        content: &Content,
        registry: RegistryScope,
        block: BlockIndex,
    ) -> Result<Bytes, ReadError> {
        let absent = || ReadError::Absent(block);
        let buffer = self.inner.pool.lend_one().await;
        let run = content.layout().run(block.number(), block.number() + 1).ok_or_else(absent)?;
        let extent = self.inner.extents(content, run, Touch::Counts)?.pop().ok_or_else(absent)?;
        // After the look at presence, as in `read`.
        if !content.serves(registry) {
            return Err(absent());
        }
        let mut bytes = Vec::with_capacity(1);
        self.inner.read_cold(content, extent, vec![buffer], &mut bytes).await?;
        bytes.pop().ok_or_else(absent)
    }

    /// Slices of the mapping that together are those bytes of the content, added to `lent`: if all of their blocks are
    /// here for a reader under that registry, in memory, and right. Else false, and `lent` is as it was. Waits for
    /// nothing and allocates nothing but room in `lent`.
    pub fn lend(
        &self,
        content: &Content,
        registry: RegistryScope,
        bytes: Range<u64>,
        lent: &mut Vec<Lent>,
    ) -> bool {
        let Some(run) = content.layout().covering(&bytes) else { return false };
        self.inner.note_used(content);
        let before = lent.len();
        let lending = self.inner.each_extent(content, run, Touch::Counts, |extent| {
            let first = extent.run.first();
            let Some(hot) = self.inner.read_hot(content, &extent)? else { return Err(ReadError::NoBuffers) };
            self.inner.counters.hot_reads.fetch_add(1, Ordering::Relaxed);
            let mut slice = hot.lend(&self.inner, extent);
            slice.keep_within(first.byte_offset(), &bytes);
            lent.push(slice);
            Ok(())
        });
        // After the look at presence, as in `read`.
        let is_lent = lending.is_ok() && content.serves(registry);
        if !is_lent {
            lent.truncate(before);
        }
        is_lent
    }

    /// The bytes of a run in buffers of their own, for whoever looks at them: slices of the mapping are for the kernel
    /// alone, since a file that is cut short beneath them ends a process that touches them.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn read_copied(
        &self,
        content: &Content,
        registry: RegistryScope,
        run: BlockRun,
        touch: Touch,
    ) -> Result<Vec<Bytes>, ReadError> {
        if touch == Touch::Counts {
            self.inner.note_used(content);
        }
        let extents = self.inner.extents(content, run, touch)?;
        // After the look at presence, as in `read`.
        if !content.serves(registry) {
            return Err(ReadError::Absent(run.first()));
        }
        let mut bytes = Vec::new();
        for extent in extents {
            let buffers = self.inner.lend(&extent)?;
            self.inner.read_cold(content, extent, buffers, &mut bytes).await?;
        }
        Ok(bytes)
    }
}

/// Whether a read keeps what it reads from being evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// A client's does.
    Counts,
    /// The node's own, to look at bytes, does not.
    Ignored,
}

/// Blocks in neighbouring slots of one slab, leased.
struct Extent {
    slab: u32,
    /// First byte in the slab.
    offset: usize,
    bytes: usize,
    leases: Leases,
    run: BlockRun,
}

/// An extent whose pages are in memory and whose blocks are checked.
struct Checked;

impl Checked {
    fn lend(self, inner: &Inner, extent: Extent) -> Lent {
        let range = extent.offset..extent.offset + extent.bytes;
        inner.slabs[extent.slab as usize].lend(range, extent.leases)
    }
}

impl Inner {
    fn note_used(&self, content: &Content) {
        if content.note_used()
            && let Some(content) = self.index.places().content(content.place).cloned()
        {
            self.keeper.note_content(&content);
        }
    }

    /// Leases the run's slots and joins neighbours. Fails at the first block that is not here.
    fn extents(&self, content: &Content, run: BlockRun, touch: Touch) -> Result<Vec<Extent>, ReadError> {
        let mut extents = Vec::new();
        self.each_extent(content, run, touch, |extent| {
            extents.push(extent);
            Ok(())
        })?;
        Ok(extents)
    }

    /// The same, one extent after the other.
    fn each_extent(
        &self,
        content: &Content,
        run: BlockRun,
        touch: Touch,
        mut take: impl FnMut(Extent) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let minute = clock::process_minute();
        let layout = content.layout();
        let mut last: Option<Extent> = None;
        for (piece, part) in run.by_piece() {
            let (slot, leases) = self.leased(content, piece, part)?;
            if touch == Touch::Counts {
                self.slots.touch(slot, minute);
            }
            let (slab, slot_offset) = self.place_of(slot);
            let offset = slot_offset + part.first().in_piece() as usize * BLOCK_BYTES as usize;
            let part_bytes = layout.bytes(part);
            let bytes = (part_bytes.end - part_bytes.start) as usize;
            let apart = match &mut last {
                Some(last) if last.slab == slab && last.offset + last.bytes == offset => {
                    match last.leases.extend(leases) {
                        Ok(()) => {
                            last.bytes += bytes;
                            last.run = joined_run(content, last.run, part);
                            continue;
                        }
                        Err(leases) => leases,
                    }
                }
                _ => leases,
            };
            if let Some(whole) = last.replace(Extent { slab, offset, bytes, leases: apart, run: part }) {
                take(whole)?;
            }
        }
        last.map_or(Ok(()), take)
    }

    /// The slot of a piece, leased, with these of its blocks in it.
    fn leased(
        &self,
        content: &Content,
        piece: PieceIndex,
        part: BlockRun,
    ) -> Result<(SlotIndex, Leases), ReadError> {
        let absent = || ReadError::Absent(part.first());
        let slot = content.slot_of(piece).ok_or_else(absent)?;
        if self.slab_of(slot).has_failed() {
            self.lose(content, part.first(), slot);
            return Err(absent());
        }
        let leases = content.lease(piece, slot, &self.slots).ok_or_else(absent)?;
        let presence = self.slots.presence(slot);
        match part.blocks().find(|block| presence & 1 << block.in_piece() == 0) {
            Some(missing) => Err(ReadError::Absent(missing)),
            None => Ok((slot, leases)),
        }
    }

    /// The blocks of an extent with slot, offset in the slab and length.
    fn blocks_of(
        &self,
        content: &Content,
        extent: &Extent,
    ) -> impl Iterator<Item = (BlockIndex, SlotIndex, usize, usize)> {
        let layout = content.layout();
        let (offset, first) = (extent.offset, extent.run.first());
        let first_slot = extent.leases.first();
        extent.run.blocks().map(move |block| {
            let at = offset + (block.number() - first.number()) as usize * BLOCK_BYTES as usize;
            let slot = SlotIndex(first_slot.0 + (block.piece().number() - first.piece().number()));
            (block, slot, at, layout.block_bytes(block) as usize)
        })
    }

    /// `None` if the pages are not in memory.
    fn read_hot(&self, content: &Content, extent: &Extent) -> Result<Option<Checked>, ReadError> {
        let slab = &self.slabs[extent.slab as usize];
        if !slab.resident(extent.offset..extent.offset + extent.bytes) || !self.may_lend() {
            return Ok(None);
        }
        let second = clock::process_s();
        for (block, slot, at, bytes) in self.blocks_of(content, extent) {
            if !self.slots.checked_lately(slot, block, second) {
                self.check(content, block, slot, slab.crc32(at..at + bytes))?;
                // Of the pages, which others are served from within this second; not of a buffer's copy.
                self.slots.note_checked(slot, block, second);
            }
        }
        // A page that the file now ends in is in memory still, and its blocks may have been checked in this second.
        if !slab.is_whole() {
            return Err(self.lose_extent(content, extent));
        }
        Ok(Some(Checked))
    }

    fn lend(&self, extent: &Extent) -> Result<Vec<BlockBuffer>, ReadError> {
        self.pool.lend(extent.run.len() as usize).ok_or(ReadError::NoBuffers)
    }

    /// One read of exactly those blocks, into a buffer each.
    async fn read_cold(
        &self,
        content: &Content,
        extent: Extent,
        buffers: Vec<BlockBuffer>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), ReadError> {
        self.counters.cold_reads.fetch_add(1, Ordering::Relaxed);
        let filled = match self.read_blocks(&extent, extent.offset, extent.bytes, buffers).await {
            Ok(filled) => filled,
            // Slabs are of full length: somebody has cut this one short.
            Err(error) if is_cut(&error) => {
                self.slabs[extent.slab as usize].fail();
                return Err(self.lose_extent(content, &extent));
            }
            Err(_) => return Err(self.lose_what_cannot_be_read(content, &extent).await),
        };
        for ((block, slot, _, bytes), buffer) in self.blocks_of(content, &extent).zip(filled) {
            self.check(content, block, slot, crc32fast::hash(&buffer.as_ref()[..bytes]))?;
            out.push(buffer.freeze(bytes));
        }
        Ok(())
    }

    /// Blocks of an extent into buffers.
    async fn read_blocks(
        &self,
        extent: &Extent,
        offset: usize,
        bytes: usize,
        buffers: Vec<BlockBuffer>,
    ) -> io::Result<Vec<BlockBuffer>> {
        let file = self.slabs[extent.slab as usize].file().clone();
        let guard = self.slots.read_from_disk(&extent.leases);
        ring::read(self.backend, ReadOp { file, offset: offset as u64, bytes, buffers, guard }).await
    }

    /// After a read that failed: block by block, so that only damaged pieces are given up. What fails for another
    /// reason than the disk's (no memory) costs nothing but this read.
    async fn lose_what_cannot_be_read(&self, content: &Content, extent: &Extent) -> ReadError {
        let blocks: Vec<_> = self.blocks_of(content, extent).collect();
        let mut first_lost = None;
        for (block, slot, offset, bytes) in blocks {
            let Some(buffer) = self.pool.lend(1) else { continue };
            let Err(error) = self.read_blocks(extent, offset, bytes, buffer).await else { continue };
            if is_the_disks(&error) {
                tracing::warn!(slab = extent.slab, %error, "a piece cannot be read; it is dropped and fetched again");
                self.counters.checks_failed.fetch_add(1, Ordering::Relaxed);
                self.lose(content, block, slot);
                first_lost.get_or_insert(block);
            }
        }
        first_lost.map_or(ReadError::NoBuffers, ReadError::Absent)
    }

    /// The slab has failed beneath the extent: all of its pieces are lost.
    fn lose_extent(&self, content: &Content, extent: &Extent) -> ReadError {
        self.keeper.slab_failed();
        self.blocks_of(content, extent).for_each(|(block, slot, ..)| self.lose(content, block, slot));
        ReadError::Absent(extent.run.first())
    }

    /// Slow readers' leases take at most a quarter of the slots; beyond that they get copies.
    fn may_lend(&self) -> bool {
        self.slots.leases() <= u64::from(self.slots.len() / 4)
    }

    fn check(
        &self,
        content: &Content,
        block: BlockIndex,
        slot: SlotIndex,
        found: u32,
    ) -> Result<(), ReadError> {
        self.counters.blocks_checked.fetch_add(1, Ordering::Relaxed);
        if found == self.slots.crc32(slot, block) {
            return Ok(());
        }
        self.counters.checks_failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(content = %content.id(), block = block.number(), "a block fails its crc32; its piece is dropped and fetched again");
        self.lose(content, block, slot);
        Err(ReadError::Absent(block))
    }

    /// One block for the hasher or a verification, by a blocking read with its own check.
    pub(crate) fn read_blocking(&self, content: &Content, block: BlockIndex) -> Result<Bytes, Unread> {
        let run = content.layout().run(block.number(), block.number() + 1).ok_or(Unread::Absent)?;
        let extent = self.extents(content, run, Touch::Ignored).ok().and_then(|mut found| found.pop());
        let extent = extent.ok_or(Unread::Absent)?;
        let mut bytes = vec![0; extent.bytes];
        let slab = &self.slabs[extent.slab as usize];
        let slot = extent.leases.first();
        let _read = self.slots.read_from_disk(&extent.leases);
        if let Err(error) = slab.file().read_exact_at(&mut bytes, extent.offset as u64) {
            if is_cut(&error) {
                slab.fail();
                self.keeper.slab_failed();
            }
            self.lose(content, block, slot);
            return Err(Unread::Damaged);
        }
        match self.check(content, block, slot, crc32fast::hash(&bytes)) {
            Ok(()) => Ok(bytes.into()),
            Err(_) => Err(Unread::Damaged),
        }
    }
}

/// Why a blocking read brought nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unread {
    /// The block is not here.
    Absent,
    /// It was, and cannot be read or is not what was written: its piece is dropped.
    Damaged,
}

fn joined_run(content: &Content, left: BlockRun, right: BlockRun) -> BlockRun {
    debug_assert_eq!(left.last().number() + 1, right.first().number());
    content.layout().run(left.first().number(), right.last().number() + 1).unwrap_or(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentSpec;
    use crate::content_id::Naming;
    use crate::hashed_block::HashedBlock;
    use crate::ring::Backend;
    use crate::small_store::{self, REGISTRY, scope};

    /// A block was checked, its page left memory and came back otherwise from the disk, by another's read that had not
    /// looked at it yet: within the second it was served unchecked.
    #[test]
    fn what_is_read_from_the_disk_again_is_checked_again() {
        clock::simulated::set(Some(std::time::Duration::from_secs(100)));
        let directory = tempfile::tempdir().unwrap();
        let store = small_store::open(directory.path(), Backend::Pool, 16);
        let bytes = Bytes::from_static(b"bytes");
        // Named by URL: the hasher, which reads too, leaves it alone.
        let spec = ContentSpec { naming: Naming::Url, ..small_store::spec(&bytes) };
        let content = store.create(&spec).unwrap();
        let run = content.layout().whole().unwrap();
        let lately = || {
            let slot = content.slot_of(run.first().piece()).unwrap();
            store.inner.slots.checked_lately(slot, run.first(), clock::process_s())
        };
        ring::run_shard(Backend::Pool, async {
            let reservation = std::sync::Arc::new(store.reserve(&content, run).await.unwrap());
            store
                .write(&reservation, run.first(), vec![HashedBlock::new(bytes.clone())], REGISTRY)
                .await
                .unwrap();
            assert!(!lately());
            assert_eq!(store.read(&content, scope(), run).await.unwrap().concat(), bytes);
            assert!(lately());
            assert_eq!(
                store.read_copied(&content, scope(), run, Touch::Ignored).await.unwrap().concat(),
                bytes
            );
            assert!(!lately(), "a read from the disk is under way, or was");
            assert_eq!(store.read(&content, scope(), run).await.unwrap().concat(), bytes);
            assert!(lately());
        })
        .unwrap();
        store.close();
        clock::simulated::set(None);
    }
}
