//! What a file system does for the files of a store, and which store is in a directory.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{statfs, statvfs};

pub use crate::directory::default_capacity_bytes;
use crate::directory::{self, OpenError};
use crate::format::Geometry;
use crate::layout::{BLOCK_BYTES, PIECE_BYTES};
use crate::scrub::Aligned;
use crate::slab::Slab;

/// Slots of the file that is tried: 1 MiB.
const TRIED_SLOTS: u32 = 4;

/// A file system, from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSystem {
    /// As `mount` calls it, such as `ext4`; of one that is not known here, its number.
    pub name: String,
    /// What this user may still write, in bytes.
    pub free_bytes: u64,
    /// Files that this user may still make; `None` where nobody counts them.
    pub free_files: Option<u64>,
    /// What it does badly for a store, and what would be better.
    pub warning: Option<&'static str>,
}

/// The file system of a path, which is there.
///
/// # Errors
/// The system does not tell.
pub fn of(path: &Path) -> io::Result<FileSystem> {
    let (found, counts) = (statfs(path)?, statvfs(path)?);
    Ok(FileSystem {
        name: name_of(found.f_type as u64),
        free_bytes: counts.f_bavail.saturating_mul(counts.f_frsize),
        free_files: (counts.f_files > 0).then_some(counts.f_favail),
        warning: directory::file_system_warning(path),
    })
}

/// After `linux/magic.h`.
fn name_of(kind: u64) -> String {
    let name = match kind {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "zfs",
        0xca45_1a4e => "bcachefs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0xf2f5_2010 => "f2fs",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        _ => return format!("a file system of type {kind:#x}"),
    };
    name.to_owned()
}

/// What became of a small file in a directory. Each is the first step that did not work, or none did not.
#[derive(Debug)]
pub struct Tried {
    /// Space was allocated ahead, and written to the disk.
    pub preallocation: io::Result<()>,
    /// The file was mapped, and what was written to it was seen there. [`io::ErrorKind::Unsupported`] where it was not
    /// tried because there was no space.
    pub mapping: io::Result<()>,
    /// It was read past the page cache. Works without, more slowly.
    pub direct: io::Result<()>,
}

/// Makes a file of 1 MiB in a directory as a store would, tries it out, and removes it.
pub fn try_file(directory: &Path) -> Tried {
    let file = Removed(directory.join(format!("darter-doctor-{}", std::process::id())));
    let not_tried = || Err(io::Error::new(io::ErrorKind::Unsupported, "not tried"));
    if let Err(error) = Slab::create(&file.0, TRIED_SLOTS) {
        return Tried { preallocation: Err(error), mapping: not_tried(), direct: not_tried() };
    }
    Tried { preallocation: Ok(()), mapping: try_mapping(&file.0), direct: try_direct(&file.0) }
}

fn try_mapping(path: &Path) -> io::Result<()> {
    let slab = Slab::open(path, TRIED_SLOTS)?;
    let block = vec![0x5a_u8; BLOCK_BYTES as usize];
    let offset = PIECE_BYTES as usize;
    slab.file().write_all_at(&block, offset as u64)?;
    slab.file().sync_data()?;
    if slab.crc32(offset..offset + block.len()) == crc32fast::hash(&block) {
        Ok(())
    } else {
        Err(io::Error::other("the mapping shows other bytes than were written to the file"))
    }
}

fn try_direct(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut buffer = Aligned::new(BLOCK_BYTES as usize);
    file.read_exact_at(buffer.bytes(BLOCK_BYTES as usize), 0)
}

/// A file that goes.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The capacity in bytes of the store in a data directory; `None` where there is none yet. Only read.
///
/// # Errors
/// What is there is no store that this version opens.
pub fn store_in(data_dir: &Path) -> Result<Option<u64>, OpenError> {
    Ok(directory::read_header(&data_dir.join("store"))?.map(|header| header.geometry.capacity_bytes()))
}

/// Whether two capacities make the same store: a capacity is whole slots.
#[must_use]
pub fn is_same_store(left_bytes: u64, right_bytes: u64) -> bool {
    Geometry::for_capacity(left_bytes) == Geometry::for_capacity(right_bytes)
}

/// What a store of this capacity takes of the disk, in bytes; `None` for a capacity that no store can have.
#[must_use]
pub fn bytes_on_disk(capacity_bytes: u64) -> Option<u64> {
    let geometry = Geometry::for_capacity(capacity_bytes)?;
    Some(geometry.capacity_bytes() + geometry.records_bytes())
}

/// The process that holds the lock of a data directory, of those that this one may see; by its id. The text is one
/// like `/proc/locks`, `device` that of the mounted file system ([`mounted_device`]) and `inode` that of the lock file.
/// Pure.
#[must_use]
pub fn locker(locks: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    locks.lines().find_map(|line| {
        // `3: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF`; who waits for it has an arrow before its kind.
        let mut words = line.split_whitespace().skip(1);
        let is_lock = words.next() == Some("FLOCK");
        let (process, held) = (words.nth(2)?, words.next()?);
        (is_lock && held == file).then(|| process.parse().ok()).flatten()
    })
}

/// The device of a mounted file system, by which `/proc/locks` names it; `stat` tells another one on btrfs, where each
/// subvolume has its own. The text is one like `/proc/self/mountinfo`. Pure.
#[must_use]
pub fn mounted_device(mountinfo: &str, mount_id: u64) -> Option<(u32, u32)> {
    // `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
    let mut mounts = mountinfo.lines().map(str::split_whitespace);
    let mut mount =
        mounts.find(|words| words.clone().next().and_then(|id| id.parse().ok()) == Some(mount_id))?;
    let (major, minor) = mount.nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreOptions};

    #[test]
    fn a_file_is_tried_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let tried = try_file(directory.path());
        assert!(tried.preallocation.is_ok() && tried.mapping.is_ok(), "{tried:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let missing = try_file(&directory.path().join("none"));
        assert_eq!(missing.preallocation.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_store_is_known_by_its_capacity_and_its_locker() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(store_in(directory.path()).unwrap(), None);
        let options = StoreOptions {
            data_dir: directory.path().to_owned(),
            capacity_bytes: Some(16 << 20),
            backend: crate::ring::Backend::Pool,
            pool_blocks: 16,
            ttl: None,
        };
        let store = Store::open(&options).unwrap();
        assert_eq!(store_in(directory.path()).unwrap(), Some(16 << 20));
        let lock = fs::metadata(directory.path().join("lock")).unwrap();
        use std::os::unix::fs::MetadataExt;
        let device = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
        let locks = || fs::read_to_string("/proc/locks").unwrap();
        assert_eq!(locker(&locks(), device, lock.ino()), Some(std::process::id()));
        store.close();
        drop(store);
        fs::remove_file(directory.path().join("store/records")).unwrap();
        assert!(matches!(store_in(directory.path()), Err(OpenError::Foreign { .. })));
    }

    /// On btrfs: a subvolume's own device is in `stat` only.
    #[test]
    fn a_mounted_device_is_read() {
        let mounts = "22 1 0:21 / /proc rw shared:5 - proc proc rw\n29 1 0:26 /@ / rw,noatime - btrfs /dev/vda2 rw\nrubbish\n";
        assert_eq!(mounted_device(mounts, 29), Some((0, 26)));
        for mount_id in [1, 2, 30] {
            assert_eq!(mounted_device(mounts, mount_id), None);
        }
        assert_eq!(mounted_device("29 1 x\n30\n", 29), None);
    }

    #[test]
    fn lockers_are_read() {
        let locks = "1: POSIX  ADVISORY  READ  7 fe:00:131 128 128\n2: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 fe:00:132 0 EOF\nrubbish\n";
        let check = |device, inode, expected| assert_eq!(locker(locks, device, inode), expected, "{inode}");
        check((0xfe, 0), 131, Some(4242));
        check((0xfe, 1), 131, None);
        check((0xfe, 0), 1, None);
        check((0xfe, 0), 132, None);
        assert_eq!(locker("", (0, 0), 0), None);
    }

    #[test]
    fn a_store_takes_its_records_too() {
        assert!(bytes_on_disk(1 << 30).is_some_and(|bytes| bytes > 1 << 30));
        assert_eq!(bytes_on_disk(0), None);
        assert!(is_same_store(16 << 20, (16 << 20) + 1) && !is_same_store(16 << 20, 32 << 20));
    }
}
