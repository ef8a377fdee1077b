//! The store's files in the data directory: lock, creation, opening.
//!
//! Only `lock`, `store` and a left-over `store.new` are ever touched. What is foreign or newer is recognised
//! before anything is written.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statfs, statvfs};

use crate::clock;
use crate::device::Device;
use crate::format::{Geometry, HEADER_BYTES, Header, HeaderError, SESSION_OFFSET, Session};
use crate::slab::Slab;

/// Part of the free space that a store takes when no capacity is configured: a fifth.
const DEFAULT_SHARE: u64 = 5;
/// Most that a store takes when no capacity is configured.
const DEFAULT_CAPACITY_BYTES_MAX: u64 = 50 << 30;

/// Why a store cannot be opened. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon runs here.
    #[error(
        "{path} is in use by another darter: stop that one, or give this one a directory of its own with --data-dir"
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// The directory cannot be written.
    #[error(
        "{path} cannot be written ({source}): make it writable for this user, or name another with --data-dir"
    )]
    NotWritable {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a `store` that is not Darter's.
    #[error(
        "{path} is not a store of darter's, and nothing in it was touched: name another directory with --data-dir, or move it away"
    )]
    Foreign {
        /// The `store` directory.
        path: PathBuf,
    },
    /// Made by a newer Darter.
    #[error(
        "{path} has format version {version}; this darter knows up to {}, and touched nothing: run the newer darter, or name another directory with --data-dir",
        crate::format::FORMAT_VERSION
    )]
    Newer {
        /// The `store` directory.
        path: PathBuf,
        /// Its format version.
        version: u32,
    },
    /// Both copies of the header are unreadable.
    #[error(
        "{path} is damaged ({what}): its cached content cannot be used; remove that directory to start with an empty one"
    )]
    Damaged {
        /// The `store` directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Not enough room on the disk.
    #[error(
        "{path} has {free_bytes} bytes free and a store of {needed_bytes} bytes is wanted: free some space, or set a smaller --capacity"
    )]
    NoSpace {
        /// The data directory.
        path: PathBuf,
        /// Bytes that would be allocated.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// A capacity that no store can have.
    #[error(
        "a capacity of {capacity_bytes} bytes is out of bounds: the least is {}, the most {}; set --capacity",
        Geometry::CAPACITY_BYTES_MIN,
        Geometry::CAPACITY_BYTES_MAX
    )]
    Capacity {
        /// The capacity asked for, or derived from the free space.
        capacity_bytes: u64,
    },
    /// The store that is there has another size.
    #[error(
        "{path} was made with a capacity of {has_bytes} bytes and {wanted_bytes} are configured: configure {has_bytes}, or remove that directory to start with an empty one of the new size"
    )]
    OtherCapacity {
        /// The `store` directory.
        path: PathBuf,
        /// Capacity of the store.
        has_bytes: u64,
        /// Capacity configured.
        wanted_bytes: u64,
    },
    /// The file system cannot allocate space ahead.
    #[error(
        "the file system of {path} cannot preallocate files: use ext4, xfs, btrfs or tmpfs, and name it with --data-dir"
    )]
    NoPreallocation {
        /// The data directory.
        path: PathBuf,
    },
    /// Anything else the system said.
    #[error(
        "cannot {what} {path} ({source}): `darter doctor` says what it finds there, and --data-dir names another directory"
    )]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The open files of a locked store.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) header: Header,
    pub(crate) session: Session,
    pub(crate) records: Device,
    pub(crate) slabs: Vec<Arc<Slab>>,
    /// Something an operator should know about the file system.
    pub(crate) warning: Option<&'static str>,
    /// Held for as long as records may be written.
    pub(crate) lock: File,
}

impl Directory {
    /// Opens the store of a data directory, or makes one. `None` takes the size that is there, or a fifth of the
    /// free space up to 50 GiB.
    pub(crate) fn open(data_dir: &Path, capacity_bytes: Option<u64>) -> Result<Self, OpenError> {
        let store = data_dir.join("store");
        // Before anything is written, the lock file included.
        let found = read_header(&store)?;
        fs::create_dir_all(data_dir).map_err(|source| writing(data_dir, source))?;
        let lock = lock(data_dir)?;
        let header = match found {
            Some(header) => header,
            None => match read_header(&store)? {
                Some(made_meanwhile) => made_meanwhile,
                None => create(data_dir, capacity_bytes)?,
            },
        };
        if let Some(wanted_bytes) = capacity_bytes
            && geometry_for(wanted_bytes)? != header.geometry
        {
            let has_bytes = header.geometry.capacity_bytes();
            return Err(OpenError::OtherCapacity { path: store, has_bytes, wanted_bytes });
        }
        let records_path = store.join("records");
        let records = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&records_path)
            .map_err(|source| writing(data_dir, source))?;
        // As with slabs: a table that was cut short reads as zeros, which are no records.
        fallocate(&records, FallocateFlags::empty(), 0, header.geometry.records_bytes())
            .map_err(|source| io_error("allocate", &records_path, source.into()))?;
        let session = Session::decode(
            &read_page(&records, SESSION_OFFSET).map_err(|source| io_error("read", &records_path, source))?,
            header.store_id,
        );
        let slabs = (0..header.geometry.slabs())
            .map(|slab| open_slab(&store, slab, header.geometry.slots_of_slab(slab)).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            header,
            session,
            records: records.into(),
            slabs,
            warning: file_system_warning(data_dir),
            lock,
        })
    }
}

/// A slab that is missing is made anew, as one that was cut short is made whole: its pieces fail their checks and are
/// fetched again.
fn open_slab(store: &Path, slab: u32, slots: u32) -> Result<Slab, OpenError> {
    let path = slab_path(store, slab);
    let opened = Slab::open(&path, slots).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "a slab is missing: it is made anew, and what it held is fetched again");
            Slab::create(&path, slots)?;
            Slab::open(&path, slots)
        }
        _ => Err(error),
    });
    opened.map_err(|source| io_error("open", &path, source))
}

pub(crate) fn read_header(store: &Path) -> Result<Option<Header>, OpenError> {
    let path = store.join("records");
    let foreign = || OpenError::Foreign { path: store.to_owned() };
    let records = match File::open(&path) {
        Ok(records) => records,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if store.exists() { Err(foreign()) } else { Ok(None) };
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(foreign()),
        Err(source) => return Err(io_error("open", &path, source)),
    };
    let copies = [0, HEADER_BYTES as u64].map(|offset| {
        read_page(&records, offset).map_or(Err(HeaderError::Foreign), |page| Header::decode(&page))
    });
    match copies {
        // The newer version is believed from either copy: whoever wrote it may have changed the rest.
        [Err(HeaderError::Newer { version }), _] | [_, Err(HeaderError::Newer { version })] => {
            Err(OpenError::Newer { path: store.to_owned(), version })
        }
        [Ok(header), _] | [_, Ok(header)] => Ok(Some(header)),
        [Err(HeaderError::Foreign), Err(HeaderError::Foreign)] => Err(foreign()),
        _ => Err(OpenError::Damaged {
            path: store.to_owned(),
            what: "both copies of its header fail their checksum".into(),
        }),
    }
}

/// The capacity of a store that nobody has configured, by the space that is free.
#[must_use]
pub fn default_capacity_bytes(free_bytes: u64) -> u64 {
    (free_bytes / DEFAULT_SHARE).min(DEFAULT_CAPACITY_BYTES_MAX)
}

fn create(data_dir: &Path, capacity_bytes: Option<u64>) -> Result<Header, OpenError> {
    let vfs = statvfs(data_dir).map_err(|source| io_error("examine", data_dir, source.into()))?;
    let free_bytes = vfs.f_bavail.saturating_mul(vfs.f_frsize);
    let capacity = capacity_bytes.unwrap_or_else(|| default_capacity_bytes(free_bytes));
    let geometry = geometry_for(capacity)?;
    let needed_bytes = geometry.capacity_bytes() + geometry.records_bytes();
    let no_space = || OpenError::NoSpace { path: data_dir.to_owned(), needed_bytes, free_bytes };
    if needed_bytes > free_bytes {
        return Err(no_space());
    }
    let header = Header {
        geometry,
        store_id: std::hash::RandomState::new().build_hasher().finish(),
        made_at_s: clock::unix_s(),
    };
    let unfinished = data_dir.join("store.new");
    let made = remove_if_there(&unfinished).and_then(|()| create_files(&unfinished, &header));
    let made = made.and_then(|()| {
        fs::rename(&unfinished, data_dir.join("store"))?;
        File::open(data_dir)?.sync_all()
    });
    made.map_err(|source| {
        // Half a store is of no use and takes the room; the next start would remove it too.
        let _ = remove_if_there(&unfinished);
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_space(),
            io::ErrorKind::Unsupported => OpenError::NoPreallocation { path: data_dir.to_owned() },
            _ => writing(data_dir, source),
        }
    })?;
    Ok(header)
}

fn create_files(store: &Path, header: &Header) -> io::Result<()> {
    fs::create_dir(store)?;
    let records = OpenOptions::new().write(true).create_new(true).open(store.join("records"))?;
    fallocate(&records, FallocateFlags::empty(), 0, header.geometry.records_bytes())?;
    let page = header.encode();
    records.write_all_at(&page, 0)?;
    records.write_all_at(&page, HEADER_BYTES as u64)?;
    records.write_all_at(&Session::Stopped { sequence: 0 }.encode(header.store_id), SESSION_OFFSET)?;
    records.sync_all()?;
    for slab in 0..header.geometry.slabs() {
        Slab::create(&slab_path(store, slab), header.geometry.slots_of_slab(slab))?;
    }
    File::open(store)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn lock(data_dir: &Path) -> Result<File, OpenError> {
    let path = data_dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| writing(data_dir, source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: data_dir.to_owned() }),
        Err(source) => Err(io_error("lock", &path, source.into())),
    }
}

fn geometry_for(capacity_bytes: u64) -> Result<Geometry, OpenError> {
    Geometry::for_capacity(capacity_bytes).ok_or(OpenError::Capacity { capacity_bytes })
}

fn slab_path(store: &Path, slab: u32) -> PathBuf {
    store.join(format!("slab-{slab:05}"))
}

fn read_page(file: &File, offset: u64) -> io::Result<[u8; HEADER_BYTES]> {
    let mut page = [0; HEADER_BYTES];
    file.read_exact_at(&mut page, offset)?;
    Ok(page)
}

fn writing(data_dir: &Path, source: io::Error) -> OpenError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::NotWritable { path: data_dir.to_owned(), source }
        }
        _ => io_error("write to", data_dir, source),
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { what, path: path.to_owned(), source }
}

/// Preallocated space is a promise that copy-on-write file systems do not keep: a write needs new space.
pub(crate) fn file_system_warning(data_dir: &Path) -> Option<&'static str> {
    const BTRFS: u64 = 0x9123_683e;
    const ZFS: u64 = 0x2fc1_2fc1;
    const BCACHEFS: u64 = 0xca45_1a4e;
    const NFS: u64 = 0x6969;
    match statfs(data_dir).map(|found| found.f_type as u64) {
        Ok(BTRFS) => Some(
            "the data directory is on btrfs: writes may run out of space although it is preallocated; ext4 or xfs is better, or chattr +C on the empty directory",
        ),
        Ok(ZFS | BCACHEFS) => Some(
            "the data directory is on a copy-on-write file system: writes may run out of space although it is preallocated; ext4 or xfs is better",
        ),
        Ok(NFS) => Some(
            "the data directory is on NFS: the cache is no faster than that server; a local disk is better",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Option<u64> = Some(16 << 20);

    fn made() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        drop(Directory::open(directory.path(), CAPACITY).unwrap());
        let records = directory.path().join("store/records");
        (directory, records)
    }

    #[test]
    fn the_second_daemon_is_told_to_go_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Directory::open(directory.path(), CAPACITY).unwrap();
        assert!(matches!(Directory::open(directory.path(), CAPACITY), Err(OpenError::Locked { .. })));
    }

    #[test]
    fn another_capacity_is_an_error_and_none_takes_what_is_there() {
        let (directory, _) = made();
        let other = Directory::open(directory.path(), Some(32 << 20));
        assert!(matches!(other, Err(OpenError::OtherCapacity { has_bytes, .. }) if has_bytes == 16 << 20));
        let same = Directory::open(directory.path(), None).unwrap();
        assert_eq!(same.header.geometry.capacity_bytes(), 16 << 20);
    }

    #[test]
    fn a_foreign_store_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("store")).unwrap();
        fs::write(directory.path().join("store/precious"), b"mine").unwrap();
        assert!(matches!(Directory::open(directory.path(), CAPACITY), Err(OpenError::Foreign { .. })));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "not even a lock file");
    }

    #[test]
    fn a_store_that_is_a_file_is_foreign() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("store"), b"mine").unwrap();
        assert!(matches!(Directory::open(directory.path(), CAPACITY), Err(OpenError::Foreign { .. })));
    }

    #[test]
    fn one_damaged_header_is_read_from_its_copy_and_two_are_an_error() {
        let (directory, records) = made();
        let file = OpenOptions::new().write(true).open(&records).unwrap();
        file.write_all_at(&[0xff; 8], 40).unwrap();
        drop(Directory::open(directory.path(), CAPACITY).unwrap());
        file.write_all_at(&[0xff; 8], 4096 + 40).unwrap();
        assert!(matches!(Directory::open(directory.path(), CAPACITY), Err(OpenError::Damaged { .. })));
    }

    #[test]
    fn more_than_the_disk_has_is_said_before_anything_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = Some(1 << 49);
        assert!(matches!(Directory::open(directory.path(), wanted), Err(OpenError::NoSpace { .. })));
        assert!(!directory.path().join("store").exists() && !directory.path().join("store.new").exists());
    }

    #[test]
    fn a_slab_that_is_missing_is_made_anew() {
        let (directory, _) = made();
        let slab = directory.path().join("store/slab-00000");
        fs::remove_file(&slab).unwrap();
        let opened = Directory::open(directory.path(), CAPACITY).unwrap();
        assert_eq!((opened.slabs.len(), fs::metadata(&slab).unwrap().len()), (1, 16 << 20));
    }

    #[test]
    fn what_a_broken_start_left_is_cleaned_up() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("store.new")).unwrap();
        fs::write(directory.path().join("store.new/slab-00000"), b"half").unwrap();
        drop(Directory::open(directory.path(), CAPACITY).unwrap());
        assert!(!directory.path().join("store.new").exists());
    }
}
