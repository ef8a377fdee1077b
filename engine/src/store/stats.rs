//! What the store and a content say of themselves.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;
use crate::content::Verification;
use crate::content_id::{ContentId, Naming};
use crate::layout::{BLOCK_BYTES, PIECE_BYTES};

/// Counted since start, but for what is under way.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Blocks on their way to the disk now.
    pub(crate) writing_blocks: AtomicU64,
    pub(crate) evicted_pieces: AtomicU64,
    pub(crate) checks_failed: AtomicU64,
    pub(crate) blocks_checked: AtomicU64,
    pub(crate) hot_reads: AtomicU64,
    pub(crate) cold_reads: AtomicU64,
    pub(crate) refused_reservations: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) scrubbed_blocks: AtomicU64,
    pub(crate) scrubbed_bad_blocks: AtomicU64,
    pub(crate) scrubbed_wrong_digests: AtomicU64,
}

/// What the store says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreStats {
    /// Bytes of all slots.
    pub capacity_bytes: u64,
    /// Bytes of slots in use.
    pub used_bytes: u64,
    /// Contents that may be found: without those that are removed and whose records are still to be given back.
    pub contents: u64,
    /// Leases alive.
    pub leases: u64,
    /// Block buffers in use, in bytes.
    pub buffer_bytes: u64,
    /// Pieces evicted since start.
    pub evicted_pieces: u64,
    /// Blocks whose crc32 was wrong when they were to be served, since start.
    pub checks_failed: u64,
    /// Blocks whose crc32 was computed before they were served, since start.
    pub blocks_checked: u64,
    /// Runs served from the mapping since start.
    pub hot_reads: u64,
    /// Runs read into buffers since start.
    pub cold_reads: u64,
    /// Reservations that found no room since start.
    pub refused_reservations: u64,
    /// Bytes written to slots since start.
    pub written_bytes: u64,
    /// Slabs that take no new pieces until the next start: a sync failed, or the file has gone from beneath.
    pub slabs_out_of_service: u64,
    /// Blocks that the scrub, or a verification, compared with their checksums since start.
    pub scrubbed_blocks: u64,
    /// Those of them that were bad on the disk, since start.
    pub scrubbed_bad_blocks: u64,
    /// Whole contents that these found to be others than their digests say, since start.
    pub scrubbed_wrong_digests: u64,
}

/// What one content says of itself.
#[derive(Clone, Debug)]
pub struct ContentStat {
    /// Name.
    pub id: ContentId,
    /// Length in bytes.
    pub length_bytes: u64,
    /// Pieces of the whole content.
    pub pieces: u32,
    /// What the name is the hash of.
    pub naming: Naming,
    /// As the registry named it; may be empty.
    pub media_type: String,
    /// Bytes of the blocks that are here.
    pub held_bytes: u64,
    /// Pieces of which at least one block is here.
    pub held_pieces: u32,
    /// Pieces whose blocks are all here and are found again after a crash.
    pub durable_pieces: u32,
    /// How far the digest is checked.
    pub verification: Verification,
    /// Never evicted.
    pub pinned: bool,
    /// Registry that the bytes came from.
    pub registry: String,
    /// Served under every registry, and not under that one alone.
    pub shared: bool,
    /// Unix seconds.
    pub created_at_s: u64,
    /// Unix seconds, to within some minutes.
    pub used_at_s: u64,
}

impl Store {
    /// What the store says of itself.
    pub fn stats(&self) -> StoreStats {
        let free = self.inner.room().free.len();
        let counters = &self.inner.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            capacity_bytes: self.inner.geometry.capacity_bytes(),
            used_bytes: u64::from(self.inner.slots.len() - free) * u64::from(PIECE_BYTES),
            contents: self.inner.index.places().live() as u64,
            leases: self.inner.slots.leases(),
            buffer_bytes: self.inner.pool.in_use() as u64 * u64::from(BLOCK_BYTES),
            evicted_pieces: count(&counters.evicted_pieces),
            checks_failed: count(&counters.checks_failed),
            blocks_checked: count(&counters.blocks_checked),
            hot_reads: count(&counters.hot_reads),
            cold_reads: count(&counters.cold_reads),
            refused_reservations: count(&counters.refused_reservations),
            written_bytes: count(&counters.written_bytes),
            slabs_out_of_service: self.inner.slabs.iter().filter(|slab| !slab.in_service()).count() as u64,
            scrubbed_blocks: count(&counters.scrubbed_blocks),
            scrubbed_bad_blocks: count(&counters.scrubbed_bad_blocks),
            scrubbed_wrong_digests: count(&counters.scrubbed_wrong_digests),
        }
    }
}
