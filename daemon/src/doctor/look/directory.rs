//! A data directory as it is found. All that is written is a file of 1 MiB in it, which is removed again.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path};

use darter_engine::OpenError;
use darter_engine::probe::file_system::{self, Tried};
use rustix::fs::{Access, AtFlags, CWD, StatxFlags, access, statx};

use super::super::place::Place;
use super::super::store::{StoreSeen, TriedSeen, Unusable, Why};
use super::{PROCESSES_MAX, text};

/// Looks at a data directory for which this capacity is configured.
pub(in super::super) fn look(data_dir: &Path, wanted_bytes: Option<u64>) -> StoreSeen {
    let place = place(data_dir);
    let nearest = match &place {
        Place::ToBeMade { within, .. } => within,
        Place::Directory { .. } | Place::Nowhere(_) => data_dir,
    };
    let tried = (place == Place::Directory { is_writable: true }).then(|| file_system::try_file(data_dir));
    StoreSeen {
        data_dir: data_dir.to_owned(),
        file_system: file_system::of(nearest).map_err(|error| error.to_string()),
        tried: tried.map(tried_seen),
        found: file_system::store_in(data_dir).map_err(unusable),
        daemon: daemon(data_dir),
        wanted_bytes,
        place,
    }
}

fn place(data_dir: &Path) -> Place {
    let is_writable = |path: &Path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    let absolute = match path::absolute(data_dir) {
        Ok(absolute) => absolute,
        Err(error) => return Place::Nowhere(error.to_string()),
    };
    for above in absolute.ancestors() {
        match fs::metadata(above) {
            Ok(found) if !found.is_dir() => {
                return Place::Nowhere(format!("{} is no directory", above.display()));
            }
            Ok(_) if above == absolute => return Place::Directory { is_writable: is_writable(above) },
            Ok(_) => return Place::ToBeMade { within: above.to_owned(), is_writable: is_writable(above) },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(above).is_ok() {
                    return Place::Nowhere(format!("{} is a link to nothing", above.display()));
                }
            }
            // What is below a file is no place either; the file itself comes next.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return Place::Nowhere(error.to_string()),
        }
    }
    Place::Nowhere("it is nowhere".to_owned())
}

fn unusable(error: OpenError) -> Unusable {
    match error {
        OpenError::Io { .. } => Unusable::Unseen(error.to_string()),
        other => Unusable::Told(other.to_string()),
    }
}

fn tried_seen(tried: Tried) -> TriedSeen {
    let why = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Why::Full,
        // O_DIRECT is EINVAL where it is not known.
        io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput => Why::Cannot,
        _ => Why::Other(error.to_string()),
    };
    let Tried { preallocation, mapping, direct } = tried;
    TriedSeen {
        preallocation: preallocation.map_err(why),
        mapping: mapping.map_err(why),
        direct: direct.map_err(why),
    }
}

/// The process that has locked the directory. Locks are only looked at: taking one could keep a daemon from starting.
fn daemon(data_dir: &Path) -> Option<u32> {
    let path = data_dir.join("lock");
    let lock = fs::metadata(&path).ok()?;
    let locks = text("/proc/locks").unwrap_or_default();
    let stated = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
    let mut devices = mounted_device(&path).into_iter().chain([stated]);
    let by_lock = devices.find_map(|device| file_system::locker(&locks, device, lock.ino()));
    // Stacked file systems name their files in yet another way.
    by_lock.or_else(|| opener(&lock, "darter"))
}

/// The device of the file system that a file is on, as the kernel names it among mounts and locks.
fn mounted_device(path: &Path) -> Option<(u32, u32)> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    // Before Linux 5.8 there is none.
    StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID).then_some(())?;
    file_system::mounted_device(&text("/proc/self/mountinfo")?, found.stx_mnt_id)
}

/// A process of that name which has a lock file open, of those that this one may look into.
fn opener(lock: &Metadata, name: &str) -> Option<u32> {
    let has_it = |process: &Path| {
        let Ok(open) = fs::read_dir(process.join("fd")) else { return false };
        // Only of files that can be it: one on a server that is away would not answer.
        let is_named =
            |file: &Path| fs::read_link(file).is_ok_and(|link| link.file_name() == Some("lock".as_ref()));
        let named = open.flatten().map(|file| file.path()).filter(|file| is_named(file));
        named
            .filter_map(|file| fs::metadata(file).ok())
            .any(|file| (file.dev(), file.ino()) == (lock.dev(), lock.ino()))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX);
    processes
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path)| text(path.join("comm")).is_some_and(|comm| comm.trim() == name))
        .find_map(|(id, path)| has_it(&path).then_some(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("none"), at("dangling")).unwrap();
        let to_be_made = Place::ToBeMade { within: home.path().to_owned(), is_writable: true };
        assert_eq!(place(home.path()), Place::Directory { is_writable: true });
        assert_eq!(place(&at("a/b/c")), to_be_made);
        for name in ["file", "file/below", "dangling", "dangling/below"] {
            assert!(matches!(place(&at(name)), Place::Nowhere(_)), "{name}");
        }
        assert!(!at("a").exists(), "nothing is made");
    }

    #[test]
    fn who_has_the_lock_is_found_by_its_file_too() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let open = fs::File::create(&path).unwrap();
        let lock = fs::metadata(&path).unwrap();
        let own = text("/proc/self/comm").unwrap();
        assert_eq!(opener(&lock, own.trim()), Some(std::process::id()));
        assert_eq!(opener(&lock, "nobody"), None);
        drop(open);
        assert_eq!(opener(&lock, own.trim()), None);
    }

    #[test]
    fn what_the_system_refuses_is_no_advice() {
        let home = tempfile::tempdir().unwrap();
        let store = home.path().join("store");
        fs::create_dir(&store).unwrap();
        std::os::unix::fs::symlink("records", store.join("records")).unwrap();
        let found = |data_dir: &Path| file_system::store_in(data_dir).map_err(unusable);
        // A link to itself cannot be opened.
        let refused = found(home.path());
        assert!(matches!(refused, Err(Unusable::Unseen(_))), "{refused:?}");
        fs::remove_file(store.join("records")).unwrap();
        assert!(matches!(found(home.path()), Err(Unusable::Told(_))));
    }
}
