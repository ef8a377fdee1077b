//! What the disk itself has taken, which nobody could have kept.

use super::disk::Disk;
use super::promises::Promise;
use super::shape::{RECORDS, STORE_ID};
use crate::content_id::ContentId;
use crate::format::{CONTENT_RECORD_BYTES, ContentRecord, Copy, Geometry, SLOT_RECORD_BYTES, SlotRecord};

/// Records that the disk itself damaged, or did not read at this start, and whom that touches.
#[derive(Default)]
pub(super) struct Blamed {
    pub(super) places: Vec<u32>,
    pub(super) slots: Vec<u32>,
    /// An older record of the same name may have come back to life.
    pub(super) ids: Vec<ContentId>,
}

impl Blamed {
    pub(super) fn find(disk: &Disk, geometry: Geometry) -> Self {
        let mut found = Self::default();
        if disk.is_well(RECORDS) {
            return found;
        }
        for place in 0..geometry.contents() {
            let offset = |copy| geometry.content_offset(copy, place);
            let Some(copies) = blamed_copies::<CONTENT_RECORD_BYTES>(disk, offset) else { continue };
            found.places.push(place);
            let records = copies.iter().filter_map(|bytes| ContentRecord::decode(bytes, place, STORE_ID));
            found.ids.extend(records.map(|record| record.id));
        }
        for slot in 0..geometry.slots() {
            let offset = |copy| geometry.slot_offset(copy, slot);
            let Some(copies) = blamed_copies::<SLOT_RECORD_BYTES>(disk, offset) else { continue };
            found.slots.push(slot);
            let records = copies.iter().filter_map(|bytes| SlotRecord::decode(bytes, slot, STORE_ID));
            found.ids.extend(records.map(|record| record.id));
        }
        found
    }

    pub(super) fn excuses(&self, promise: &Promise) -> bool {
        self.places.contains(&promise.place) || self.ids.contains(&promise.sample.id)
    }
}

/// Both copies of a record, if the disk is to blame for one of them.
fn blamed_copies<const BYTES: usize>(disk: &Disk, offset: impl Fn(Copy) -> u64) -> Option<[[u8; BYTES]; 2]> {
    let ranges = [Copy::A, Copy::B].map(|copy| offset(copy)..offset(copy) + BYTES as u64);
    let is_blamed = ranges.iter().any(|range| disk.is_to_blame(RECORDS, range));
    is_blamed.then(|| ranges.map(|range| disk.peek(RECORDS, range).try_into().unwrap()))
}
