//! A file of the store, as everything here reaches one: records, slabs, and the operations of shards.
//!
//! It is a file of the kernel's and nothing else in the daemon, where all of this compiles to the plain calls. In the
//! engine's own tests it may be one of a simulated disk, which tears, loses, flips and refuses by seed
//! (`simulation`), and everything above it is the same code.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};

#[cfg(test)]
use crate::simulation::SimulatedFile;

/// A file that is read and written at offsets.
#[derive(Debug)]
pub(crate) enum Device {
    /// The kernel's.
    File(File),
    /// A simulated disk's.
    #[cfg(test)]
    Simulated(SimulatedFile),
}

impl Device {
    /// Fills the buffer; an end of file before that is an error.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            #[cfg(test)]
            Self::Simulated(file) => file.read_exact_at(buffer, offset),
        }
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(bytes, offset),
            #[cfg(test)]
            Self::Simulated(file) => file.write_all_at(bytes, offset),
        }
    }

    /// Returns when all that was written is on the disk. After an error nothing says what of it is.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_data(),
            #[cfg(test)]
            Self::Simulated(file) => file.sync_data(),
        }
    }

    /// After a failed sync the kernel takes what it could not write for written. It is to forget it, so that whoever
    /// opens the file next reads what is on the disk.
    pub(crate) fn forget_cached(&self) {
        match self {
            Self::File(file) => {
                if let Err(error) = fadvise(file, 0, None, Advice::DontNeed) {
                    tracing::warn!(%error, "the page cache may have records that the disk has not");
                }
            }
            #[cfg(test)]
            Self::Simulated(file) => file.forget_cached(),
        }
    }

    /// Length of the file now.
    pub(crate) fn length_bytes(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            #[cfg(test)]
            Self::Simulated(file) => Ok(file.length_bytes()),
        }
    }

    /// For the calls that only the kernel has.
    pub(crate) fn file(&self) -> &File {
        match self {
            Self::File(file) => file,
            #[cfg(test)]
            Self::Simulated(_) => unreachable!("a simulated file is not the kernel's"),
        }
    }
}

/// Whether a read ended before its time: files of a store are of full length, so somebody has cut this one short.
pub(crate) fn is_cut(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

/// Whether a read failed because the disk cannot bring the bytes, and not for want of something else, such as memory.
pub(crate) fn is_the_disks(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT | libc::EBADMSG))
}

impl From<File> for Device {
    fn from(file: File) -> Self {
        Self::File(file)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file().as_raw_fd()
    }
}
