//! Slot records as the disk has them, for their BLAKE3, which is not kept in memory.
//!
//! Read past the page cache, by whole pages: the records of sixteen neighbours are in one. The keeper may write a page
//! meanwhile; what is read then fails its seal, or is an older record, which speaks of fewer blocks and lies of none:
//! a present block is never written again in its generation.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::disk::Aligned;
use crate::format::{Copy, Geometry, SLOT_RECORD_BYTES, SlotRecord};

const PAGE_BYTES: u64 = 4096;

/// The `records` file, and the page of each copy that was read last.
#[derive(Debug)]
pub(super) struct RecordPages {
    file: File,
    pages: [(Option<u64>, Aligned); 2],
}

impl RecordPages {
    /// `None` where it cannot be opened: then there is no BLAKE3 to compare with.
    pub(super) fn open(records: &Path) -> Option<Self> {
        let mut options = OpenOptions::new();
        let direct = options.read(true).custom_flags(libc::O_DIRECT).open(records);
        let file = direct.or_else(|_| File::open(records)).ok()?;
        let page = || (None, Aligned::new(PAGE_BYTES as usize));
        Some(Self { file, pages: [page(), page()] })
    }

    /// The newest valid record of a slot in that generation, as far as can be told without the keeper.
    pub(super) fn of_slot(
        &mut self,
        geometry: Geometry,
        store_id: u64,
        slot: u32,
        generation: u32,
    ) -> Option<SlotRecord> {
        let copies = [Copy::A, Copy::B].into_iter().zip(&mut self.pages);
        let records = copies.filter_map(|(copy, (held, page))| {
            let offset = geometry.slot_offset(copy, slot);
            let start = offset / PAGE_BYTES * PAGE_BYTES;
            if *held != Some(start) {
                *held = None;
                self.file.read_exact_at(page.bytes(PAGE_BYTES as usize), start).ok()?;
                *held = Some(start);
            }
            let record = page.bytes(PAGE_BYTES as usize)[(offset - start) as usize..]
                .first_chunk::<SLOT_RECORD_BYTES>()?;
            SlotRecord::decode(record, slot, store_id)
        });
        let ours = |record: &SlotRecord| record.held && record.generation == generation;
        records.filter(ours).max_by_key(|record| record.sequence)
    }

    /// What is read from now on is read anew.
    pub(super) fn forget(&mut self) {
        self.pages.iter_mut().for_each(|(held, _)| *held = None);
    }
}
