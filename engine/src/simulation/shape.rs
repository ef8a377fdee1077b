//! How large the store of a world is, and which file of the disk is what.

pub(super) const SLOTS_PER_SLAB: u32 = 8;
pub(super) const SLABS: u32 = 2;
pub(super) const SLOTS: u32 = SLOTS_PER_SLAB * SLABS;
pub(super) const RECORDS: usize = 0;
pub(super) const STORE_ID: u64 = 0x5eed;

/// File of a slab.
pub(super) fn slab_file(slab: u32) -> usize {
    slab as usize + 1
}
