//! A data directory as it is found. All that is written is a file of 1 MiB in it, which is removed again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path};

use darter_engine::probe::file_system::{self, Tried};
use rustix::fs::{Access, access};

use super::super::place::Place;
use super::super::store::{StoreSeen, TriedSeen, Why};
use super::text;

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
        found: file_system::store_in(data_dir).map_err(|error| error.to_string()),
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
    let lock = fs::metadata(data_dir.join("lock")).ok()?;
    let device = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
    file_system::locker(&text("/proc/locks")?, device, lock.ino())
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
}
