//! One preallocated file of slots, mapped twice.
//!
//! * The SEND mapping is lent to sockets only: the kernel reads it inside `writev`, where a bad page is EFAULT.
//! * The LOAD mapping is what this process itself reads, for checksums. A bad page there is SIGBUS, which [`fault`]
//!   turns into zeros and a mark: no checksum takes them for the block's bytes.
//!
//! Both are read-only and no `&mut [u8]` over either exists: all writes go through the file. We never truncate the
//! file while it is mapped; when somebody else does, the slab has *failed*. Then nothing in it is read or lent again,
//! and nothing is written to it: a write would make the file longer, and a hole below its new end reads as zeros
//! where no page was before. What clients still hold of it ends in EFAULT, and so in the end of their connections.
//!
//! This module and [`fault`] hold all of the engine's mapping code; `unsafe` stays here.
//!
//! [`fault`]: crate::fault
#![allow(unsafe_code, reason = "mappings of slabs; each block names its invariant")]

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::{Advice as FileAdvice, FallocateFlags, fadvise, fallocate};

use crate::device::Device;
use crate::fault::Contained;
use crate::layout::PIECE_BYTES;
#[cfg(test)]
use crate::simulation::SimulatedFile;
use crate::slot::Leases;

const PAGE_BYTES: usize = 4096;
const _: () = assert!((PIECE_BYTES as usize).is_multiple_of(PAGE_BYTES));

/// A mapped slab.
#[derive(Debug)]
pub(crate) struct Slab {
    file: Arc<Device>,
    maps: Maps,
    bytes: usize,
    out_of_service: AtomicBool,
    failed: AtomicBool,
}

/// The slab's file in memory.
#[derive(Debug)]
enum Maps {
    Kernel {
        send: MmapRaw,
        load: Contained,
    },
    /// A simulated file says itself what a look at its memory finds.
    #[cfg(test)]
    Simulated(SimulatedFile),
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
        let bytes = slab_bytes(slots) as usize;
        let map = || -> io::Result<MmapRaw> {
            let map = MmapOptions::new().len(bytes).map_raw_read_only(&file)?;
            map.advise(Advice::DontFork)?;
            Ok(map)
        };
        let maps = Maps::Kernel { send: map()?, load: Contained::new(map()?)? };
        Ok(Self::of(file.into(), maps, bytes))
    }

    /// A slab of a simulated disk.
    #[cfg(test)]
    pub(crate) fn simulated(file: SimulatedFile) -> Self {
        let bytes = file.length_bytes() as usize;
        Self::of(Device::Simulated(file.clone()), Maps::Simulated(file), bytes)
    }

    fn of(file: Device, maps: Maps, bytes: usize) -> Self {
        let (out_of_service, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { file: Arc::new(file), maps, bytes, out_of_service, failed }
    }

    /// The file, for reads and writes by ring or pool.
    pub(crate) fn file(&self) -> &Arc<Device> {
        &self.file
    }

    /// Whether every page of the range is in memory: 3 µs for 4 MiB.
    pub(crate) fn resident(&self, range: Range<usize>) -> bool {
        let load = match &self.maps {
            Maps::Kernel { load, .. } => load.map(),
            #[cfg(test)]
            Maps::Simulated(file) => return file.resident(range),
        };
        let first = range.start / PAGE_BYTES * PAGE_BYTES;
        let last = range.end.min(load.len());
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
                unsafe { libc::mincore(load.as_mut_ptr().add(start).cast(), bytes, pages.as_mut_ptr()) };
            status == 0 && pages[..count].iter().all(|page| page & 1 == 1)
        })
    }

    /// crc32 of a range, read through the LOAD mapping. Where the file has gone from beneath it, that of other bytes,
    /// and [`Self::has_failed`] says so.
    pub(crate) fn crc32(&self, range: Range<usize>) -> u32 {
        assert!(range.start <= range.end && range.end <= self.bytes);
        let load = match &self.maps {
            Maps::Kernel { load, .. } => load.map(),
            #[cfg(test)]
            Maps::Simulated(file) => return file.crc32(range),
        };
        // SAFETY: the range lies inside the LOAD mapping, which lives as long as `self`. The bytes belong to blocks
        // that are present, which nobody here writes while the caller holds their lease. If somebody else cuts the
        // file short, the fault is contained and the rest is summed over zeros; the slice ends with this call.
        let bytes = unsafe { std::slice::from_raw_parts(load.as_ptr().add(range.start), range.len()) };
        crc32fast::hash(bytes)
    }

    /// Lends a range of the SEND mapping for as long as the leases live.
    pub(crate) fn lend(self: &Arc<Self>, range: Range<usize>, leases: Leases) -> Lent {
        assert!(range.start <= range.end && range.end <= self.bytes);
        #[cfg(test)]
        if let Maps::Simulated(file) = &self.maps {
            let simulated = Some((range.start, file.lend(range.clone(), leases)));
            return Lent { slab: self.clone(), range, _leases: Leases::none(), simulated };
        }
        Lent {
            slab: self.clone(),
            range,
            _leases: leases,
            #[cfg(test)]
            simulated: None,
        }
    }

    /// Unmaps the pages of both mappings; whoever touches one next maps it again.
    pub(crate) fn let_go_of_pages(&self) -> io::Result<()> {
        let (send, load) = match &self.maps {
            Maps::Kernel { send, load } => (send, load.map()),
            #[cfg(test)]
            Maps::Simulated(_) => return Ok(()),
        };
        for map in [send, load] {
            // SAFETY: nothing was written through these mappings, which are read-only: a page that is touched again
            // has the file's bytes as before, or zeros where the mapping was covered.
            unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed)? };
        }
        Ok(())
    }

    /// Whether new pieces may be put here.
    pub(crate) fn in_service(&self) -> bool {
        !self.out_of_service.load(Ordering::Relaxed) && !self.has_failed()
    }

    /// Whether the file has gone from beneath the mappings, in part or whole. Nothing in it is believed until the
    /// next start, whatever has become of the file since.
    pub(crate) fn has_failed(&self) -> bool {
        let load_has_failed = match &self.maps {
            Maps::Kernel { load, .. } => load.has_failed(),
            #[cfg(test)]
            Maps::Simulated(file) => file.has_failed(),
        };
        self.failed.load(Ordering::Acquire) || load_has_failed
    }

    /// The file was found to have gone.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Fails the slab if its file is no longer of full length: a look of less than a microsecond. False if it has
    /// failed, now or before.
    pub(crate) fn is_whole(&self) -> bool {
        if !self.has_failed() && self.file.length_bytes().is_ok_and(|found| found < self.bytes as u64) {
            self.fail();
        }
        !self.has_failed()
    }

    /// Of a failed slab: what lay behind the end of its file, and the page that it ends in, is EFAULT from now on, for
    /// whoever still holds slices of it and even if the file grows again. All of it is, if the file is of full length
    /// and nobody knows what was cut.
    pub(crate) fn seal(&self) -> io::Result<()> {
        let send = match &self.maps {
            Maps::Kernel { send, .. } => send,
            #[cfg(test)]
            Maps::Simulated(_) => return Ok(()),
        };
        let found_bytes = self.file.length_bytes()?;
        let whole = found_bytes >= self.bytes as u64;
        let first = if whole { 0 } else { found_bytes as usize / PAGE_BYTES * PAGE_BYTES };
        if first >= self.bytes {
            return Ok(());
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: the range is the end of the SEND mapping, which lives as long as `self` and unmaps these pages with
        // its others. Only the kernel reads them, on behalf of sockets, and finds EFAULT as behind a file's end.
        let sealed = unsafe {
            let start = send.as_mut_ptr().add(first).cast();
            libc::mmap(start, self.bytes - first, libc::PROT_NONE, flags, -1, 0)
        };
        if sealed == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// After a failed sync: no new pieces until the next start.
    pub(crate) fn take_out_of_service(&self) {
        self.out_of_service.store(true, Ordering::Relaxed);
    }
}

fn slab_bytes(slots: u32) -> u64 {
    u64::from(slots) * u64::from(PIECE_BYTES)
}

/// A part of a slab in the hands of a socket: for the kernel alone to read.
pub struct Lent {
    slab: Arc<Slab>,
    /// Never grows.
    range: Range<usize>,
    _leases: Leases,
    /// What a simulated file lends, from this byte of it on.
    #[cfg(test)]
    simulated: Option<(usize, bytes::Bytes)>,
}

impl Lent {
    /// Keeps of a slice that begins at `offset` in its content what lies within `bytes` of that.
    pub(crate) fn keep_within(&mut self, offset: u64, bytes: &Range<u64>) {
        let end = offset + self.range.len() as u64;
        let from = bytes.start.clamp(offset, end) - offset;
        let to = bytes.end.clamp(offset + from, end) - offset;
        self.range = self.range.start + from as usize..self.range.start + to as usize;
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({:?})", self.range)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        #[cfg(test)]
        if let Some((from, bytes)) = &self.simulated {
            return &bytes[self.range.start - from..self.range.end - from];
        }
        let send = match &self.slab.maps {
            Maps::Kernel { send, .. } => send,
            #[cfg(test)]
            Maps::Simulated(_) => unreachable!("a simulated file lends its own"),
        };
        // Bytes of a file that somebody cuts short go away: whoever is lent them only hands them to the kernel, which
        // finds EFAULT.
        // SAFETY: `lend` checked the range, and `slab` keeps the mapping alive. The leases keep the slots from being
        // given to anyone else, and a present block is never written again in its generation: nothing changes here.
        unsafe { std::slice::from_raw_parts(send.as_ptr().add(self.range.start), self.range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_the_file_is_seen_in_both_mappings() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slab");
        Slab::create(&path, 64).unwrap();
        let slab = Arc::new(Slab::open(&path, 64).unwrap());
        slab.file().write_all_at(b"bytes", 8192).unwrap();
        assert_eq!(slab.crc32(8192..8197), crc32fast::hash(b"bytes"));
        let mut lent = slab.lend(8192..8197, Leases::none());
        assert_eq!(lent.as_ref(), b"bytes");
        lent.keep_within(100, &(101..200));
        assert_eq!(lent.as_ref(), b"ytes");
        lent.keep_within(101, &(0..103));
        assert_eq!(lent.as_ref(), b"yt");
        lent.keep_within(101, &(103..110));
        assert_eq!(lent.as_ref(), b"");
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

    /// Sends one lent page into a socket, as the kernel finds it.
    fn send(lent: &Lent) -> io::Result<usize> {
        let (mut socket, _other) = std::os::unix::net::UnixStream::pair()?;
        io::Write::write(&mut socket, lent.as_ref())
    }

    #[test]
    fn a_slab_that_is_cut_short_beneath_its_mappings_fails_and_stays_failed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slab");
        Slab::create(&path, 64).unwrap();
        let slab = Arc::new(Slab::open(&path, 64).unwrap());
        let page = [7; PAGE_BYTES];
        slab.file().write_all_at(&page, 0).unwrap();
        slab.file().write_all_at(&page, 1 << 20).unwrap();
        let (kept, cut) = (
            slab.lend(0..PAGE_BYTES, Leases::none()),
            slab.lend(1 << 20..(1 << 20) + PAGE_BYTES, Leases::none()),
        );
        assert!(slab.is_whole() && slab.in_service());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(1 << 19).unwrap();
        assert_ne!(slab.crc32(1 << 20..(1 << 20) + PAGE_BYTES), crc32fast::hash(&page));
        assert!(slab.has_failed() && !slab.in_service(), "a fault fails the slab");
        assert_eq!(send(&kept).unwrap(), PAGE_BYTES);
        assert_eq!(send(&cut).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        slab.seal().unwrap();
        file.set_len(slab_bytes(64)).unwrap();
        assert_eq!(send(&cut).unwrap_err().raw_os_error(), Some(libc::EFAULT), "zeros where bytes were lent");
        assert_eq!(send(&kept).unwrap(), PAGE_BYTES, "what was not cut off is still lent");
        assert!(!slab.is_whole());
        slab.seal().unwrap();
        assert_eq!(send(&kept).unwrap_err().raw_os_error(), Some(libc::EFAULT), "nobody knows what was cut");
    }

    #[test]
    fn a_look_finds_a_slab_that_is_short() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slab");
        Slab::create(&path, 64).unwrap();
        let slab = Slab::open(&path, 64).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(slab_bytes(64) - 1).unwrap();
        assert!(slab.in_service(), "nobody has looked");
        assert!(!slab.is_whole() && !slab.in_service());
    }
}
