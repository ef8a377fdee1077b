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

use rustix::fs::{Advice, fadvise};

use crate::layout::{BLOCK_BYTES, PIECE_BYTES};
use crate::slab::Slab;

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

/// A buffer for one piece, and the slab that it was read from last.
#[derive(Debug)]
pub(crate) struct Disk {
    buffer: Box<[u8]>,
    aligned: usize,
    /// Number of a slab, with a descriptor for direct reads if its file system has them.
    open: Option<(u32, Option<File>)>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let buffer = vec![0; PIECE + ALIGN].into_boxed_slice();
        // A bound on the place in the buffer, whatever `align_offset` says.
        let aligned = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { buffer, aligned, open: None }
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
        let into = &mut self.buffer[self.aligned..][..whole_blocks];
        if way == Way::Cached {
            slab.file().read_exact_at(into, range.start as u64)?;
            return Ok(&self.buffer[self.aligned..][..range.len()]);
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, open_direct(slab.file())));
        }
        if let Some((_, direct)) = &mut self.open
            && let Some(file) = direct
        {
            match file.read_exact_at(into, range.start as u64) {
                // Some file systems refuse the read and not the opening.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => *direct = None,
                read => return read.map(|()| &self.buffer[self.aligned..][..range.len()]),
            }
        }
        let was_cached = slab.resident(range.clone());
        slab.file().read_exact_at(into, range.start as u64)?;
        if !was_cached {
            let length = std::num::NonZeroU64::new(whole_blocks as u64);
            // Only costs memory when it fails, which the kernel takes back.
            let _ = fadvise(&**slab.file(), range.start as u64, length, Advice::DontNeed);
        }
        Ok(&self.buffer[self.aligned..][..range.len()])
    }

    /// Lets go of the slab that was read last.
    pub(crate) fn close(&mut self) {
        self.open = None;
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
        slab.file().sync_all().unwrap();
        // Its name may be gone, and another file have it.
        std::fs::rename(&path, directory.join("renamed")).unwrap();
        let mut disk = Disk::new();
        for way in [Way::Direct, Way::Cached] {
            for range in [0..PIECE, BLOCK..BLOCK + 1, 2 * BLOCK..PIECE - 5] {
                let place = PIECE + range.start..PIECE + range.end;
                assert_eq!(disk.read(0, &slab, place, way).unwrap(), &bytes[range], "{way:?}");
            }
        }
        disk.close();
        slab.file().set_len(PIECE as u64).unwrap();
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
