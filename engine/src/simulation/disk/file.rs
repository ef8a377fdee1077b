//! A file twice: in the page cache, and on the disk.

use std::ops::Range;
use std::sync::Weak;

use bytes::Bytes;

use super::memory::Memory;
use super::{PAGE_BYTES, overlap, pages};
use crate::simulation::rng::Rng;

/// What is written whole or not at all, but for [`SHORN`].
const SECTOR_BYTES: usize = 512;
/// In 1000: sectors in which the power goes, or the disk fails, between one byte and the next.
const SHORN: u32 = 100;

/// A file, as it is read and as it is on the disk.
#[derive(Debug)]
pub(super) struct FileState {
    pub(super) length: u64,
    pub(super) view: Memory,
    pub(super) disk: Memory,
    pub(super) cached: Vec<bool>,
    pub(super) unsynced: Vec<Unsynced>,
    /// Changed at rest by the disk.
    pub(super) damaged: Vec<Range<u64>>,
    /// Cannot be read from the disk until it is written again.
    pub(super) bad: Vec<Range<u64>>,
    /// Read wrongly or refused once, in this life.
    pub(super) misread: Vec<Range<u64>>,
    /// Of a file that is read once, at a start.
    pub(super) keeps_misreads: bool,
    pub(super) mapping_failed: bool,
    pub(super) lent: Vec<Weak<Range<u64>>>,
}

/// A write that no sync has brought to the disk.
#[derive(Clone, Debug)]
pub(super) struct Unsynced {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

impl Unsynced {
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes.len() as u64
    }
}

impl FileState {
    pub(super) fn new(length: u64, keeps_misreads: bool) -> Self {
        Self {
            length,
            view: Memory::new(length as usize),
            disk: Memory::new(length as usize),
            cached: vec![false; (length as usize).div_ceil(PAGE_BYTES)],
            unsynced: Vec::new(),
            damaged: Vec::new(),
            bad: Vec::new(),
            misread: Vec::new(),
            keeps_misreads,
            mapping_failed: false,
            lent: Vec::new(),
        }
    }

    /// Bytes reach the disk, and what was wrong there is well again.
    fn persist_bytes(&mut self, offset: u64, bytes: &[u8]) {
        self.disk.write(offset, bytes);
        let range = offset..offset + bytes.len() as u64;
        self.damaged.retain(|one| !(range.start <= one.start && one.end <= range.end));
        // Pages are written as a whole, from the page cache.
        let pages = pages(&range);
        self.bad.retain(|bad| !pages.contains(&(bad.start as usize / PAGE_BYTES)));
    }

    /// Whether a write of a part of a page would have to read the rest, and cannot.
    pub(super) fn needs_what_cannot_be_read(&self, range: &Range<u64>) -> bool {
        self.bad.iter().any(|bad| {
            let covered = range.start <= bad.start && bad.end <= range.end;
            overlap(bad, range) && !covered && !self.cached[bad.start as usize / PAGE_BYTES]
        })
    }

    pub(super) fn persist(&mut self, write: &Unsynced) {
        self.persist_bytes(write.offset, &write.bytes);
    }

    /// Each sector with that luck in 1000.
    pub(super) fn persist_in_part(&mut self, write: &Unsynced, luck: u32, rng: &mut Rng) {
        if luck == 1000 {
            return self.persist(write);
        }
        let Range { mut start, end } = write.range();
        while luck > 0 && start < end {
            let sector_end = end.min((start / SECTOR_BYTES as u64 + 1) * SECTOR_BYTES as u64);
            if rng.chance(luck) {
                let shorn =
                    if rng.chance(SHORN) { rng.below((sector_end - start) as usize) as u64 } else { 0 };
                let part = (start - write.offset) as usize..(sector_end - shorn - write.offset) as usize;
                self.persist_bytes(start, &write.bytes[part]);
            }
            start = sector_end;
        }
    }

    /// The view of a page becomes the disk's.
    pub(super) fn refresh(&mut self, page: usize) {
        let range = page * PAGE_BYTES..((page + 1) * PAGE_BYTES).min(self.view.bytes.len());
        if self.view.touched[page] || self.disk.touched[page] {
            let (view, disk) = (&mut self.view, &self.disk);
            view.bytes[range.clone()].copy_from_slice(&disk.bytes[range.clone()]);
            view.touched[page] = true;
        }
    }

    pub(super) fn forget_cached(&mut self, range: Range<u64>) {
        for page in pages(&range) {
            let page_range = (page * PAGE_BYTES) as u64..((page + 1) * PAGE_BYTES) as u64;
            if !self.unsynced.iter().any(|write| overlap(&write.range(), &page_range)) {
                self.cached[page] = false;
                self.refresh(page);
            }
        }
    }

    pub(super) fn restart(&mut self) {
        for page in 0..self.cached.len() {
            self.refresh(page);
        }
        self.cached.fill(false);
        self.reopen();
        self.misread.clear();
    }

    pub(super) fn reopen(&mut self) {
        self.length = self.view.bytes.len() as u64;
        // What was read wrongly is believed from then on: until it is written again it is as good as damaged.
        if self.keeps_misreads {
            self.damaged.append(&mut self.misread);
        }
        self.mapping_failed = false;
        self.lent.clear();
    }

    pub(super) fn cut(&mut self, length: u64) {
        let whole = self.view.bytes.len() as u64;
        self.length = length;
        for memory in [&mut self.view, &mut self.disk] {
            memory.clear(length..whole);
        }
        for write in &mut self.unsynced {
            write.bytes.truncate(length.saturating_sub(write.offset) as usize);
        }
        self.unsynced.retain(|write| !write.bytes.is_empty());
        self.damaged.push(length..whole);
    }
}
