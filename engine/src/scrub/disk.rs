//! Reads of slabs past the page cache: what the disk holds, without pushing out what readers want.
//!
//! A slab is opened once more, with O_DIRECT, through the file that is open already: so it is the same file even when
//! its name has gone. Where the file system knows no direct reads, they go through the page cache, and what was not
//! there before is let go of again.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, fadvise};

use super::record_pages::RecordPages;
use crate::format::{Geometry, SlotRecord};
use crate::layout::{BLOCK_BYTES, PIECE_BYTES};
use crate::slab::Slab;
use crate::slot::SlotIndex;

/// Alignment of the buffer in memory; no block device wants more. Places and lengths are multiples of a block, which is
/// more than any logical block.
const ALIGN: usize = 4096;
const BLOCK: usize = BLOCK_BYTES as usize;
const PIECE: usize = PIECE_BYTES as usize;

/// Which way a read takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Past the page cache.
    Direct,
    /// Through it, and it stays there.
    Cached,
}

/// A buffer as direct reads want it.
#[derive(Debug)]
pub(crate) struct Aligned {
    buffer: Box<[u8]>,
    first: usize,
}

impl Aligned {
    pub(crate) fn new(bytes: usize) -> Self {
        let buffer = vec![0; bytes + ALIGN].into_boxed_slice();
        // A bound on the place in the buffer, whatever `align_offset` says.
        let first = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { buffer, first }
    }

    /// Its first `bytes` bytes.
    pub(crate) fn bytes(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.buffer[self.first..][..bytes]
    }
}

/// A buffer for one piece, and what it was read from last.
#[derive(Debug)]
pub(crate) struct Disk {
    buffer: Aligned,
    records: Option<RecordPages>,
    /// Number of a slab, with a descriptor for direct reads if its file system has them.
    open: Option<(u32, Option<File>)>,
}

impl Disk {
    /// `records`: path of the file that the slots' records are in.
    pub(crate) fn new(records: &Path) -> Self {
        Self { buffer: Aligned::new(PIECE), records: RecordPages::open(records), open: None }
    }

    /// The record of a slot in that generation, if there is a durable one at hand.
    pub(super) fn record(
        &mut self,
        geometry: Geometry,
        store_id: u64,
        slot: SlotIndex,
        generation: u32,
    ) -> Option<SlotRecord> {
        self.records.as_mut()?.of_slot(geometry, store_id, slot.0, generation)
    }

    /// Bytes of one piece in a slab, from the beginning of one of its blocks on.
    pub(crate) fn read(
        &mut self,
        number: u32,
        slab: &Slab,
        range: Range<usize>,
        way: Way,
    ) -> io::Result<&[u8]> {
        debug_assert!(range.start.is_multiple_of(BLOCK) && range.len() <= PIECE);
        let whole_blocks = range.len().next_multiple_of(BLOCK);
        let into = self.buffer.bytes(whole_blocks);
        if way == Way::Cached {
            slab.file().read_exact_at(into, range.start as u64)?;
            return Ok(&into[..range.len()]);
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, open_direct(slab.file().file())));
        }
        if let Some((_, direct)) = &mut self.open
            && let Some(file) = direct
        {
            match file.read_exact_at(into, range.start as u64) {
                // Some file systems refuse the read and not the opening.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => *direct = None,
                read => return read.map(|()| &into[..range.len()]),
            }
        }
        let was_cached = slab.resident(range.clone());
        slab.file().read_exact_at(into, range.start as u64)?;
        if !was_cached {
            let length = std::num::NonZeroU64::new(whole_blocks as u64);
            // Only costs memory when it fails, which the kernel takes back.
            let _ = fadvise(&**slab.file(), range.start as u64, length, Advice::DontNeed);
        }
        Ok(&into[..range.len()])
    }

    /// Lets go of what was read last.
    pub(crate) fn close(&mut self) {
        self.open = None;
        if let Some(records) = &mut self.records {
            records.forget();
        }
    }
}

fn open_direct(file: &File) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(directory: &std::path::Path) {
        let path = directory.join("slab");
        Slab::create(&path, 64).unwrap();
        let slab = Slab::open(&path, 64).unwrap();
        let bytes: Vec<u8> = (0..PIECE).map(|at| (at / 7) as u8).collect();
        slab.file().write_all_at(&bytes, PIECE as u64).unwrap();
        slab.file().sync_data().unwrap();
        // Its name may be gone, and another file have it.
        std::fs::rename(&path, directory.join("renamed")).unwrap();
        let mut disk = Disk::new(&directory.join("records"));
        for way in [Way::Direct, Way::Cached] {
            for range in [0..PIECE, BLOCK..BLOCK + 1, 2 * BLOCK..PIECE - 5] {
                let place = PIECE + range.start..PIECE + range.end;
                assert_eq!(disk.read(0, &slab, place, way).unwrap(), &bytes[range], "{way:?}");
            }
        }
        disk.close();
        slab.file().file().set_len(PIECE as u64).unwrap();
        let error = disk.read(0, &slab, PIECE..PIECE + 1, Way::Direct).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_bytes_are_those_of_the_file_either_way() {
        check(tempfile::tempdir().unwrap().path());
    }

    #[test]
    fn a_file_system_in_memory_is_read_too() {
        match tempfile::tempdir_in("/dev/shm") {
            Ok(directory) => check(directory.path()),
            Err(error) => eprintln!("SKIPPED: no file system in memory at /dev/shm: {error}"),
        }
    }
}
