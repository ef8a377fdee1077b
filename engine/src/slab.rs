//! One preallocated file of slots, mapped twice.
//!
//! * The SEND mapping is lent to sockets only: the kernel reads it inside `writev`, where a bad page is EFAULT.
//! * The LOAD mapping is what this process itself reads, for checksums.
//!
//! Both are read-only and no `&mut [u8]` over either exists: all writes go through the file. The file is never
//! truncated while it is mapped. This module holds all of the engine's mapping code; `unsafe` stays here.
#![allow(unsafe_code, reason = "mappings of slabs; each block names its invariant")]

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{Advice as FileAdvice, FallocateFlags, fadvise, fallocate};

use crate::layout::PIECE_BYTES;
use crate::slot::Leases;

const PAGE_BYTES: usize = 4096;
const _: () = assert!((PIECE_BYTES as usize).is_multiple_of(PAGE_BYTES));

/// A mapped slab.
#[derive(Debug)]
pub(crate) struct Slab {
    file: Arc<File>,
    send: MmapRaw,
    load: MmapRaw,
    out_of_service: AtomicBool,
}

impl Slab {
    /// Makes a slab file of `slots` slots with all of its space allocated. The file must not exist.
    pub(crate) fn create(path: &Path, slots: u32) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, slab_bytes(slots))?;
        file.sync_all()
    }

    /// Maps a slab of `slots` slots. A file that was cut short is allocated again in full: the pieces that
    /// lived there fail their checks and are fetched again, and no mapped page lies beyond the file's end.
    pub(crate) fn open(path: &Path, slots: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, slab_bytes(slots))?;
        // Populating one block brought in 2 MiB: readahead must not act on what one small range wants.
        fadvise(&file, 0, None, FileAdvice::Random)?;
        let map = || -> io::Result<MmapRaw> {
            let map = MmapOptions::new().len(slab_bytes(slots) as usize).map_raw_read_only(&file)?;
            map.advise(Advice::DontFork)?;
            Ok(map)
        };
        let (send, load) = (map()?, map()?);
        Ok(Self { file: Arc::new(file), send, load, out_of_service: AtomicBool::new(false) })
    }

    /// The file, for reads and writes by ring or pool.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether every page of the range is in memory: 3 µs for 4 MiB.
    pub(crate) fn resident(&self, range: Range<usize>) -> bool {
        let first = range.start / PAGE_BYTES * PAGE_BYTES;
        let last = range.end.min(self.load.len());
        if first >= last {
            return false;
        }
        const PAGES_PER_CALL: usize = 1024;
        let mut pages = [0u8; PAGES_PER_CALL];
        (first..last).step_by(PAGES_PER_CALL * PAGE_BYTES).all(|start| {
            let bytes = (last - start).min(PAGES_PER_CALL * PAGE_BYTES);
            let count = bytes.div_ceil(PAGE_BYTES);
            // SAFETY: `start..start + bytes` lies inside the LOAD mapping (checked against its length above),
            // `start` is a multiple of the page size, and `pages` has room for one byte per page.
            let status =
                unsafe { libc::mincore(self.load.as_mut_ptr().add(start).cast(), bytes, pages.as_mut_ptr()) };
            status == 0 && pages[..count].iter().all(|page| page & 1 == 1)
        })
    }

    /// crc32 of a range, read through the LOAD mapping.
    pub(crate) fn crc32(&self, range: Range<usize>) -> u32 {
        assert!(range.start <= range.end && range.end <= self.load.len());
        // SAFETY: the range lies inside the LOAD mapping, which lives as long as `self` and whose file is never
        // truncated by us. The bytes belong to blocks that are present, which nobody writes while the caller
        // holds their lease.
        let bytes = unsafe { std::slice::from_raw_parts(self.load.as_ptr().add(range.start), range.len()) };
        crc32fast::hash(bytes)
    }

    /// Lends a range of the SEND mapping for as long as the leases live.
    pub(crate) fn lend(self: &Arc<Self>, range: Range<usize>, leases: Leases) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.send.len());
        Bytes::from_owner(Lent { slab: self.clone(), range, _leases: leases })
    }

    /// Whether new pieces may be put here.
    pub(crate) fn in_service(&self) -> bool {
        !self.out_of_service.load(Ordering::Relaxed)
    }

    /// After a failed sync: no new pieces until the next start.
    pub(crate) fn take_out_of_service(&self) {
        self.out_of_service.store(true, Ordering::Relaxed);
    }
}

fn slab_bytes(slots: u32) -> u64 {
    u64::from(slots) * u64::from(PIECE_BYTES)
}

/// A part of a slab in the hands of a socket.
struct Lent {
    slab: Arc<Slab>,
    range: Range<usize>,
    _leases: Leases,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `lend` checked the range against the mapping's length, and `slab` keeps the mapping alive.
        // The leases keep the slots from being given to anyone else, and a present block is never written
        // again in its generation, so these bytes do not change while `self` lives.
        unsafe { std::slice::from_raw_parts(self.slab.send.as_ptr().add(self.range.start), self.range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_written_to_the_file_is_seen_in_both_mappings() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slab");
        Slab::create(&path, 64).unwrap();
        let slab = Arc::new(Slab::open(&path, 64).unwrap());
        slab.file().write_all_at(b"bytes", 8192).unwrap();
        assert_eq!(slab.crc32(8192..8197), crc32fast::hash(b"bytes"));
        assert_eq!(&slab.lend(8192..8197, Leases::none())[..], b"bytes");
        assert!(slab.resident(8192..8197));
        assert!(Slab::create(&path, 64).is_err(), "an existing slab is never made anew");
    }

    #[test]
    fn a_slab_that_was_cut_short_is_whole_again_after_opening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slab");
        Slab::create(&path, 64).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
        let slab = Slab::open(&path, 64).unwrap();
        let last = slab_bytes(64) as usize;
        assert_eq!(slab.crc32(last - 4096..last), crc32fast::hash(&[0; 4096]));
    }
}
