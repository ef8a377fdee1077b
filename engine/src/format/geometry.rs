//! Where each record and each slot is, for a store of a given size.

use super::{CONTENT_RECORD_BYTES, HEADER_BYTES, SLOT_RECORD_BYTES};
use crate::layout::PIECE_BYTES;

pub(crate) const SESSION_OFFSET: u64 = 2 * HEADER_BYTES as u64;
pub(crate) const SCRUB_OFFSET: u64 = 3 * HEADER_BYTES as u64;
/// First byte of the content table's copy A.
pub(crate) const TABLES_OFFSET: u64 = 4 * HEADER_BYTES as u64;
/// Slots of a full slab: 1 GiB.
pub(crate) const SLOTS_PER_SLAB: u32 = 4096;
const TABLE_ALIGN: u64 = 4096;
const SLOTS_MIN: u32 = 64;

const _: () = assert!(SLOTS_PER_SLAB as u64 * PIECE_BYTES as u64 == 1 << 30);
const _: () = assert!(TABLE_ALIGN.is_multiple_of(SLOT_RECORD_BYTES as u64));
const _: () = assert!(TABLE_ALIGN.is_multiple_of(CONTENT_RECORD_BYTES as u64));

/// One of the two copies of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copy {
    /// The first copy.
    A,
    /// The second copy.
    B,
}

impl Copy {
    /// The copy that a change goes to when this one holds the newest record.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Numbers of slots and of content records; everything else about places follows from them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    slots: u32,
    contents: u32,
    slots_per_slab: u32,
}

impl Geometry {
    /// Smallest capacity of a store: room for sixteen requests of 1 MiB.
    pub const CAPACITY_BYTES_MIN: u64 = SLOTS_MIN as u64 * PIECE_BYTES as u64;
    /// Largest capacity of a store: slot numbers keep clear of `u32::MAX`, which means "none".
    pub const CAPACITY_BYTES_MAX: u64 = (u32::MAX as u64 - 1) * PIECE_BYTES as u64;

    /// As many whole slots as fit; `None` outside of [`Self::CAPACITY_BYTES_MIN`]`..=`[`Self::CAPACITY_BYTES_MAX`].
    pub fn for_capacity(capacity_bytes: u64) -> Option<Self> {
        if !(Self::CAPACITY_BYTES_MIN..=Self::CAPACITY_BYTES_MAX).contains(&capacity_bytes) {
            return None;
        }
        let slots = (capacity_bytes / u64::from(PIECE_BYTES)) as u32;
        // A layer of an image has 80 pieces in the middle; configurations and manifests have one.
        Self::of(slots, (slots / 4).max(SLOTS_MIN))
    }

    /// From the numbers of a header; `None` if they are out of bounds.
    pub(super) fn of(slots: u32, contents: u32) -> Option<Self> {
        let valid = (SLOTS_MIN..u32::MAX).contains(&slots) && (SLOTS_MIN..=slots).contains(&contents);
        valid.then_some(Self { slots, contents, slots_per_slab: SLOTS_PER_SLAB })
    }

    /// A store far below the bounds, in which a few steps meet each other.
    #[cfg(test)]
    pub(crate) fn tiny(slots: u32, contents: u32, slots_per_slab: u32) -> Self {
        Self { slots, contents, slots_per_slab }
    }

    /// Number of slots.
    pub fn slots(self) -> u32 {
        self.slots
    }

    /// Number of content records.
    pub fn contents(self) -> u32 {
        self.contents
    }

    /// Bytes that the slots hold together.
    pub fn capacity_bytes(self) -> u64 {
        u64::from(self.slots) * u64::from(PIECE_BYTES)
    }

    /// Number of slabs.
    pub fn slabs(self) -> u32 {
        self.slots.div_ceil(self.slots_per_slab)
    }

    /// Slots of one slab: 4096, fewer in the last.
    pub fn slots_of_slab(self, slab: u32) -> u32 {
        self.slots.saturating_sub(slab.saturating_mul(self.slots_per_slab)).min(self.slots_per_slab)
    }

    /// The slots of one slab.
    pub fn slots_in_slab(self, slab: u32) -> std::ops::Range<u32> {
        let first = slab.saturating_mul(self.slots_per_slab);
        first..first + self.slots_of_slab(slab)
    }

    /// The slab that a slot is in.
    pub fn slab_of(self, slot: u32) -> u32 {
        slot / self.slots_per_slab
    }

    /// First byte of a slot in its slab.
    pub fn offset_in_slab(self, slot: u32) -> u64 {
        u64::from(slot % self.slots_per_slab) * u64::from(PIECE_BYTES)
    }

    /// Length of the `records` file.
    pub fn records_bytes(self) -> u64 {
        self.slot_table(Copy::B) + self.slot_table_bytes()
    }

    /// Place of a content's record in `records`.
    pub fn content_offset(self, copy: Copy, content: u32) -> u64 {
        self.content_table(copy) + u64::from(content) * CONTENT_RECORD_BYTES as u64
    }

    /// Place of a slot's record in `records`.
    pub fn slot_offset(self, copy: Copy, slot: u32) -> u64 {
        self.slot_table(copy) + u64::from(slot) * SLOT_RECORD_BYTES as u64
    }

    fn content_table(self, copy: Copy) -> u64 {
        match copy {
            Copy::A => TABLES_OFFSET,
            Copy::B => TABLES_OFFSET + self.content_table_bytes(),
        }
    }

    fn slot_table(self, copy: Copy) -> u64 {
        let first = self.content_table(Copy::B) + self.content_table_bytes();
        match copy {
            Copy::A => first,
            Copy::B => first + self.slot_table_bytes(),
        }
    }

    fn content_table_bytes(self) -> u64 {
        (u64::from(self.contents) * CONTENT_RECORD_BYTES as u64).next_multiple_of(TABLE_ALIGN)
    }

    fn slot_table_bytes(self) -> u64 {
        (u64::from(self.slots) * SLOT_RECORD_BYTES as u64).next_multiple_of(TABLE_ALIGN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn capacities_outside_the_bounds_are_refused() {
        assert_eq!(Geometry::for_capacity(Geometry::CAPACITY_BYTES_MIN - 1), None);
        assert_eq!(Geometry::for_capacity(u64::MAX), None);
        assert_eq!(Geometry::for_capacity(Geometry::CAPACITY_BYTES_MIN).unwrap().slots(), SLOTS_MIN);
    }

    proptest! {
        #[test]
        fn tables_follow_each_other_without_overlap(slots in SLOTS_MIN..u32::MAX) {
            let capacity = u64::from(slots) * u64::from(PIECE_BYTES);
            let geometry = Geometry::for_capacity(capacity).unwrap();
            prop_assert_eq!(geometry.capacity_bytes(), capacity);
            let content_end = |copy| geometry.content_offset(copy, geometry.contents());
            let slot_end = |copy| geometry.slot_offset(copy, geometry.slots());
            prop_assert!(content_end(Copy::A) <= geometry.content_offset(Copy::B, 0));
            prop_assert!(content_end(Copy::B) <= geometry.slot_offset(Copy::A, 0));
            prop_assert!(slot_end(Copy::A) <= geometry.slot_offset(Copy::B, 0));
            prop_assert!(slot_end(Copy::B) <= geometry.records_bytes());
            let in_slabs: u64 = (0..geometry.slabs()).map(|slab| u64::from(geometry.slots_of_slab(slab))).sum();
            prop_assert_eq!(in_slabs, u64::from(slots));
        }
    }
}
