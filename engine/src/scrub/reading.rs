//! A content read through, piece by piece, and compared with what its records say: for the scrub, and for who asks.
//!
//! A piece is leased while it is read, like by any reader, so that its slot is not given to another meanwhile. What is
//! bad is dropped, that piece alone; what comes or goes meanwhile is no error. Nothing is touched for eviction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::disk::{Disk, Way};
use crate::content::{Content, Verification};
use crate::content_id::Naming;
use crate::device::{is_cut, is_the_disks};
use crate::format::SlotRecord;
use crate::layout::{BLOCK_BYTES, BLOCKS_PER_PIECE, BlockIndex, PieceIndex};
use crate::slot::{Leases, SlotIndex};
use crate::store::Inner;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Blocks that were read and compared with their checksums.
    pub checked_blocks: u32,
    /// Those of them that cannot be read or are not what was written. Their pieces are dropped.
    pub bad_blocks: u32,
    /// Blocks that are not held.
    pub absent_blocks: u32,
    /// Whether the whole has the digest that names it; `None` where that cannot be told: blocks are absent or bad,
    /// or the content is named by URL. With `false` the content has been removed.
    pub digest_right: Option<bool>,
    /// `keep_going` said no before the end.
    pub stopped: bool,
}

/// Whose reading it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum For {
    /// Whoever asked for a verification: all that is held, whatever a crash would leave of it.
    Command,
    /// The scrub: what is on the disk. Bytes that are on their way there are not, and their content has no verdict.
    Scrub,
    /// The warm-up: what is on the disk, into the page cache.
    WarmUp,
}

/// One content on its way from its first piece to its last.
#[derive(Debug)]
pub(crate) struct Reading {
    content: Arc<Content>,
    whose: For,
    /// Of all blocks so far; `None` once one is missing.
    sha256: Option<Sha256>,
    found: Verified,
}

impl Reading {
    /// `from_start`: it is read from its first piece on, so that its digest can be told.
    pub(crate) fn new(content: Arc<Content>, whose: For, from_start: bool) -> Self {
        let named = content.naming() == Naming::Digest;
        // What is not proved yet is the hasher's, whose blocks may still be replaced.
        let has_verdict = match whose {
            For::Command => true,
            For::Scrub => content.verification() == Verification::Passed,
            For::WarmUp => false,
        };
        let sha256 = (named && has_verdict && from_start).then(Sha256::new);
        Self { content, whose, sha256, found: Verified::default() }
    }

    pub(crate) fn content(&self) -> &Arc<Content> {
        &self.content
    }

    /// What was found up to here.
    pub(crate) fn found(&self) -> Verified {
        self.found
    }

    /// The next piece. Returns the bytes that were read.
    pub(crate) fn piece(&mut self, inner: &Inner, disk: &mut Disk, piece: PieceIndex) -> u64 {
        let layout = self.content.layout();
        let first = piece.number() * BLOCKS_PER_PIECE;
        let blocks: Vec<BlockIndex> = (first..first.saturating_add(BLOCKS_PER_PIECE))
            .map_while(|number| layout.block(number))
            .collect();
        let before = self.found;
        let read_bytes = match self.lease(inner, piece, &blocks) {
            Some(leased) => self.look_at(inner, disk, &leased),
            None => 0,
        };
        let checked = self.found.checked_blocks - before.checked_blocks;
        let bad = self.found.bad_blocks - before.bad_blocks;
        let absent = blocks.len() as u32 - checked;
        self.found.absent_blocks += absent;
        if absent + bad > 0 {
            self.sha256 = None;
        }
        inner.counters.scrubbed_blocks.fetch_add(u64::from(checked), Ordering::Relaxed);
        inner.counters.scrubbed_bad_blocks.fetch_add(u64::from(bad), Ordering::Relaxed);
        read_bytes
    }

    /// After the last piece: what the digest says. A whole that is another than its name says is removed.
    pub(crate) fn finish(mut self, inner: &Inner) -> Verified {
        let sha256 = self.sha256.take();
        let may_tell = self.whose == For::Command || self.content.verification() == Verification::Passed;
        if let Some(sha256) = sha256.filter(|_| may_tell) {
            let right = sha256.finalize().as_slice() == self.content.id().as_bytes();
            self.found.digest_right = Some(right);
            if !right {
                tracing::error!(
                    content = %self.content.id(),
                    "the bytes held are not those of the digest; they are purged"
                );
                inner.counters.scrubbed_wrong_digests.fetch_add(1, Ordering::Relaxed);
                inner.remove(&self.content);
            }
        }
        self.found
    }

    /// Takes a lease on the piece's slot, if there is something to look at.
    pub(super) fn lease(&self, inner: &Inner, piece: PieceIndex, blocks: &[BlockIndex]) -> Option<Leased> {
        let slot = self.content.slot_of(piece)?;
        let lease = inner.slots.lease(slot)?;
        // The lease counts only if the piece is still in this slot.
        if self.content.slot_of(piece) != Some(slot) || inner.slab_of(slot).has_failed() {
            return None;
        }
        let here = match self.whose {
            For::Command => inner.slots.presence(slot),
            For::Scrub | For::WarmUp => inner.slots.presence(slot) & inner.slots.durable(slot),
        };
        let is_here = |block: &BlockIndex| here & 1 << block.in_piece() != 0;
        let blocks: Vec<_> = blocks.iter().copied().filter(is_here).collect();
        (!blocks.is_empty()).then_some(Leased { slot, blocks, _lease: lease })
    }

    /// Compares the blocks of one piece, up to the first bad one, which costs the piece.
    fn look_at(&mut self, inner: &Inner, disk: &mut Disk, leased: &Leased) -> u64 {
        let layout = self.content.layout();
        let (number, slot_offset) = inner.place_of(leased.slot);
        let slab = inner.slab_of(leased.slot);
        let place = |first: BlockIndex, last: BlockIndex| {
            let start = slot_offset + first.in_piece() as usize * BLOCK_BYTES as usize;
            let end = slot_offset + last.in_piece() as usize * BLOCK_BYTES as usize;
            start..end + layout.block_bytes(last) as usize
        };
        let (first, last) = (leased.blocks[0], leased.blocks[leased.blocks.len() - 1]);
        let all = place(first, last);
        let way = match self.whose {
            For::Command | For::Scrub => Way::Direct,
            For::WarmUp => Way::Cached,
        };
        if way == Way::Cached && slab.resident(all.clone()) {
            return 0;
        }
        let word = inner.slots.word(leased.slot);
        let record = disk.record(inner.geometry, inner.store_id, leased.slot, word.generation);
        let is_right = |block: &BlockIndex, bytes: &[u8]| {
            let (wanted, in_piece) = (inner.slots.crc32(leased.slot, *block), block.in_piece() as usize);
            // A record of other blocks, or of an older state of these, says nothing.
            let speaks = |record: &&SlotRecord| {
                record.presence & 1 << in_piece != 0 && record.crc32[in_piece] == wanted
            };
            crc32fast::hash(bytes) == wanted
                && record
                    .as_ref()
                    .filter(speaks)
                    .is_none_or(|record| blake3::hash(bytes) == record.blake3[in_piece])
        };
        let mut read_bytes = all.len() as u64;
        if let Ok(bytes) = disk.read(number, slab, all.clone(), way) {
            let part = |block: BlockIndex| {
                let place = place(block, block);
                &bytes[place.start - all.start..place.end - all.start]
            };
            if leased.blocks.iter().all(|block| is_right(block, part(*block))) {
                self.found.checked_blocks += leased.blocks.len() as u32;
                if let Some(sha256) = &mut self.sha256 {
                    leased.blocks.iter().for_each(|block| sha256.update(part(*block)));
                }
                return read_bytes;
            }
        }
        // Block by block, to know what is bad. What is wrong once and right the next time has suffered on its way and
        // not on the disk.
        for block in &leased.blocks {
            let place = place(*block, *block);
            read_bytes += place.len() as u64;
            let bad = match disk.read(number, slab, place, way) {
                Ok(bytes) if is_right(block, bytes) => {
                    if let Some(sha256) = &mut self.sha256 {
                        sha256.update(bytes);
                    }
                    None
                }
                Ok(_) => Some("it is not what was written".to_owned()),
                // What fails for another reason than the disk's (no memory) costs nothing but this look.
                Err(error) if !is_cut(&error) && !is_the_disks(&error) => return read_bytes,
                Err(error) => {
                    if is_cut(&error) {
                        slab.fail();
                        inner.keeper.slab_failed();
                    }
                    Some(error.to_string())
                }
            };
            self.found.checked_blocks += 1;
            if let Some(reason) = bad {
                self.found.bad_blocks += 1;
                tracing::warn!(
                    content = %self.content.id(), block = block.number(), slab = number, reason,
                    "a block on the disk is bad; its piece is dropped, and fetched again when it is wanted"
                );
                inner.lose(&self.content, *block, leased.slot);
                break;
            }
        }
        read_bytes
    }
}

/// Blocks of one piece that are looked at, in a slot that stays theirs meanwhile.
pub(super) struct Leased {
    slot: SlotIndex,
    /// In order; at least one.
    blocks: Vec<BlockIndex>,
    _lease: Leases,
}
