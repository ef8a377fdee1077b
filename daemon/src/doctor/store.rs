//! The data directory, its file system, and the store that is in it or would be. Pure.

use std::path::PathBuf;

use darter_engine::probe::file_system::{FileSystem, bytes_on_disk, default_capacity_bytes, is_same_store};

use super::finding::Finding;
use super::place::Place;
use crate::config::size::ByteSize;

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct StoreSeen {
    pub(super) data_dir: PathBuf,
    pub(super) place: Place,
    /// Of the directory, or of the one in which it would be made.
    pub(super) file_system: Result<FileSystem, String>,
    /// What became of a file in the directory; `None`: none could be made there.
    pub(super) tried: Option<TriedSeen>,
    /// The capacity of the store that is there, in bytes.
    pub(super) found: Result<Option<u64>, Unusable>,
    /// The process that has its lock, as far as it can be seen.
    pub(super) daemon: Option<u32>,
    /// The capacity that is configured, in bytes.
    pub(super) wanted_bytes: Option<u64>,
}

/// Why what is there is no store.
#[derive(Clone, Debug)]
pub(super) enum Unusable {
    /// As the engine says it: what it is, and after a colon what to do.
    Told(String),
    /// The system did not let anybody look, and says why.
    Unseen(String),
}

/// See [`darter_engine::probe::file_system::Tried`].
#[derive(Clone, Debug)]
pub(super) struct TriedSeen {
    pub(super) preallocation: Result<(), Why>,
    pub(super) mapping: Result<(), Why>,
    pub(super) direct: Result<(), Why>,
}

/// Why a step did not work.
#[derive(Clone, Debug)]
pub(super) enum Why {
    /// The disk or the user's share of it is full.
    Full,
    /// The file system cannot do it, or an earlier step had failed.
    Cannot,
    /// Anything else, as the system says it.
    Other(String),
}

/// So much less than all free space is left for others.
const LEFT_PART_MIN: u64 = 20;
/// A store that keeps less than this keeps hardly an image.
const USEFUL_BYTES_MIN: u64 = 1 << 30;
/// What the small files beside the slabs may need.
const BESIDE_BYTES_MIN: u64 = 16 << 20;
const OTHER_DIRECTORY: &str = "name another directory with --data-dir or dataDir";

pub(super) fn findings(seen: &StoreSeen) -> Vec<Finding> {
    let mut findings = vec![directory(seen)];
    if matches!(seen.place, Place::Nowhere(_)) {
        return findings;
    }
    findings.push(store(seen));
    match &seen.file_system {
        Ok(file_system) => {
            findings.push(of_file_system(file_system));
            findings.extend(seen.tried.as_ref().map(file));
            findings.push(space(seen, file_system));
        }
        Err(reason) => findings.push(Finding::failed("file system", reason, OTHER_DIRECTORY)),
    }
    findings
}

fn directory(seen: &StoreSeen) -> Finding {
    const CHECK: &str = "directory";
    let path = seen.data_dir.display();
    let writable = || format!("make it writable for the user that runs darter, or {OTHER_DIRECTORY}");
    match &seen.place {
        Place::Directory { is_writable: true } => {
            Finding::ok(CHECK, format!("{path} is there and can be written"))
        }
        Place::Directory { is_writable: false } => {
            Finding::failed(CHECK, format!("{path} cannot be written by this user"), writable())
        }
        Place::ToBeMade { within, is_writable: true } => {
            Finding::ok(CHECK, format!("{path} will be made by the first start, in {}", within.display()))
        }
        Place::ToBeMade { within, is_writable: false } => Finding::failed(
            CHECK,
            format!("{path} is not there, and this user cannot make it in {}", within.display()),
            format!("make it for the user that runs darter, or {OTHER_DIRECTORY}"),
        ),
        Place::Nowhere(reason) => Finding::failed(CHECK, format!("{path}: {reason}"), OTHER_DIRECTORY),
    }
}

fn store(seen: &StoreSeen) -> Finding {
    const CHECK: &str = "store";
    let by = match seen.daemon {
        Some(process) => format!("; darter runs on it, process {process}"),
        None => String::new(),
    };
    match (&seen.found, seen.wanted_bytes) {
        (Err(Unusable::Unseen(reason)), _) => Finding::failed(
            CHECK,
            format!("cannot be looked at: {reason}"),
            format!("look at who may read it and at its disk (dmesg), or {OTHER_DIRECTORY}"),
        ),
        (Err(Unusable::Told(message)), _) => match message.split_once(": ") {
            Some((what, advice)) => Finding::failed(CHECK, what, advice),
            None => Finding::failed(CHECK, message, OTHER_DIRECTORY),
        },
        (Ok(None), _) => Finding::ok(CHECK, "none yet; the first start makes one"),
        (Ok(Some(found)), Some(wanted)) if !is_same_store(*found, wanted) => Finding::failed(
            CHECK,
            format!("was made for {}, and {} are configured{by}", ByteSize(*found), ByteSize(wanted)),
            format!(
                // Rounded it would be another one again.
                "set storage.capacity: {}, or stop darter and remove {} to begin with an empty one of the other size",
                ByteSize(*found),
                seen.data_dir.join("store").display()
            ),
        ),
        (Ok(Some(found)), _) => Finding::ok(CHECK, format!("is there, for {}{by}", size(*found))),
    }
}

fn of_file_system(file_system: &FileSystem) -> Finding {
    const CHECK: &str = "file system";
    match file_system.warning {
        Some(warning) => {
            let (seen, advice) = warning.rsplit_once("; ").unwrap_or((warning, OTHER_DIRECTORY));
            Finding::warning(CHECK, seen, advice)
        }
        None => Finding::ok(CHECK, &*file_system.name),
    }
}

/// A file of a store, made and tried out.
fn file(tried: &TriedSeen) -> Finding {
    const CHECK: &str = "a file";
    let other = format!("use ext4, xfs or another local file system: {OTHER_DIRECTORY}");
    match tried {
        TriedSeen { preallocation: Err(Why::Full), .. } => {
            Finding::failed(CHECK, "there is no room for a file of 1 MiB", "free some space")
        }
        TriedSeen { preallocation: Err(Why::Cannot), .. } => {
            Finding::failed(CHECK, "space cannot be allocated ahead here", other)
        }
        TriedSeen { preallocation: Err(Why::Other(reason)), .. } => {
            Finding::failed(CHECK, format!("a file of 1 MiB cannot be made: {reason}"), OTHER_DIRECTORY)
        }
        TriedSeen { mapping: Err(Why::Other(reason)), .. } => {
            Finding::failed(CHECK, format!("a file cannot be used in memory: {reason}"), other)
        }
        TriedSeen { mapping: Err(_), .. } => Finding::failed(CHECK, "a file cannot be used in memory", other),
        TriedSeen { direct: Err(Why::Other(reason)), .. } => Finding::warning(
            CHECK,
            format!("can be allocated and mapped, and not be read past the page cache: {reason}"),
            "the scrub works, but pushes other things out of memory; ext4 or xfs is better",
        ),
        TriedSeen { direct: Err(_), .. } => Finding::ok(
            CHECK,
            "can be allocated and mapped; not be read past the page cache, so the scrub reads through it",
        ),
        _ => Finding::ok(CHECK, "can be allocated, mapped, synced and read past the page cache"),
    }
}

fn space(seen: &StoreSeen, file_system: &FileSystem) -> Finding {
    const CHECK: &str = "space";
    let free = file_system.free_bytes;
    if file_system.free_files == Some(0) {
        return Finding::failed(
            CHECK,
            "no file can be made any more: the inodes are used up",
            "remove some files",
        );
    }
    if let Ok(Some(found)) = seen.found {
        let beside = format!("the store's {} are allocated; {} are free beside it", size(found), size(free));
        return match free {
            ..BESIDE_BYTES_MIN => Finding::warning(
                CHECK,
                beside,
                "free some: what registries have confirmed cannot be written down for the next start",
            ),
            _ => Finding::ok(CHECK, beside),
        };
    }
    let capacity = seen.wanted_bytes.unwrap_or_else(|| default_capacity_bytes(free));
    let Some(needed) = bytes_on_disk(capacity) else {
        return Finding::failed(
            CHECK,
            format!("{} are free, which is no room for a store", size(free)),
            format!("free some space, or {OTHER_DIRECTORY}"),
        );
    };
    let seen_sizes =
        format!("{} are free, a store for {} takes {}", size(free), size(capacity), size(needed));
    if needed > free {
        Finding::failed(CHECK, seen_sizes, "free some space, or set a smaller storage.capacity")
    } else if seen.wanted_bytes.is_none() && capacity < USEFUL_BYTES_MIN {
        Finding::warning(
            CHECK,
            format!("{seen_sizes}, a fifth of that"),
            "free some space, or set storage.capacity: it keeps hardly an image",
        )
    } else if free - needed < free / LEFT_PART_MIN {
        Finding::warning(
            CHECK,
            seen_sizes,
            "hardly anything would be left for others: set a smaller storage.capacity",
        )
    } else {
        Finding::ok(CHECK, seen_sizes)
    }
}

/// Rounded to what one can read.
fn size(bytes: u64) -> String {
    let rounded = match bytes {
        ..0x80_0000 => bytes,
        0x80_0000..0x2_0000_0000 => bytes >> 20 << 20,
        _ => bytes >> 30 << 30,
    };
    ByteSize(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn good() -> StoreSeen {
        StoreSeen {
            data_dir: "/d".into(),
            place: Place::Directory { is_writable: true },
            file_system: Ok(FileSystem {
                name: "ext4".into(),
                free_bytes: 100 << 30,
                free_files: Some(1000),
                warning: None,
            }),
            tried: Some(TriedSeen { preallocation: Ok(()), mapping: Ok(()), direct: Ok(()) }),
            found: Ok(None),
            daemon: None,
            wanted_bytes: None,
        }
    }

    fn check(change: impl FnOnce(&mut StoreSeen), name: &str, level: Level, words: &[&str]) {
        let mut seen = good();
        change(&mut seen);
        let all = findings(&seen);
        let finding = all.iter().find(|finding| finding.check == name).expect("it was checked");
        let said = format!("{} {}", finding.seen, finding.advice.as_deref().unwrap_or_default());
        assert_eq!(finding.level, level, "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said:?}");
        }
    }

    fn free(seen: &mut StoreSeen, bytes: u64) {
        seen.file_system.as_mut().expect("it was seen").free_bytes = bytes;
    }

    #[test]
    fn a_good_directory_is_well() {
        assert!(findings(&good()).iter().all(|finding| finding.level == Level::Ok));
        check(|_| {}, "space", Level::Ok, &["100GiB are free", "20GiB"]);
    }

    #[test]
    fn directories() {
        let place = |place: Place| move |seen: &mut StoreSeen| seen.place = place;
        let within = || PathBuf::from("/above");
        let to_be_made = |is_writable| Place::ToBeMade { within: within(), is_writable };
        check(place(to_be_made(true)), "directory", Level::Ok, &["will be made", "/above"]);
        check(place(to_be_made(false)), "directory", Level::Failed, &["cannot make it in /above"]);
        let read_only = Place::Directory { is_writable: false };
        check(place(read_only), "directory", Level::Failed, &["cannot be written", "--data-dir"]);
        let mut seen = good();
        seen.place = Place::Nowhere("it is no directory".into());
        assert_eq!(findings(&seen).len(), 1, "nothing else can be said");
    }

    #[test]
    fn stores() {
        let found = |seen: &mut StoreSeen| (seen.found, seen.daemon) = (Ok(Some(1 << 30)), Some(42));
        check(found, "store", Level::Ok, &["1GiB", "process 42"]);
        let other = |seen: &mut StoreSeen| {
            found(seen);
            seen.wanted_bytes = Some(2 << 30);
        };
        check(other, "store", Level::Failed, &["2GiB", "/d/store"]);
        // The size of a part of a disk, which no round number is.
        let odd = |seen: &mut StoreSeen| {
            seen.found = Ok(Some((20 << 30) + 3 * (256 << 10)));
            seen.wanted_bytes = Some(20 << 30);
        };
        check(odd, "store", Level::Failed, &["20GiB are configured", "storage.capacity: 20972288KiB,"]);
        let silent = |seen: &mut StoreSeen| seen.found = Err(Unusable::Unseen("read /d/store: EIO".into()));
        check(silent, "store", Level::Failed, &["looked at: read /d/store: EIO", "dmesg"]);
        let foreign =
            |seen: &mut StoreSeen| seen.found = Err(Unusable::Told("/d/store is none: move it away".into()));
        check(foreign, "store", Level::Failed, &["/d/store is none", "move it away"]);
    }

    #[test]
    fn space_is_compared_with_what_is_wanted() {
        check(
            |seen| seen.wanted_bytes = Some(200 << 30),
            "space",
            Level::Failed,
            &["100GiB are free", "200GiB"],
        );
        check(|seen| seen.wanted_bytes = Some(98 << 30), "space", Level::Warning, &["left for others"]);
        check(|seen| free(seen, 1 << 30), "space", Level::Warning, &["hardly an image"]);
        check(|seen| free(seen, 1 << 20), "space", Level::Failed, &["no room for a store"]);
        let full = |seen: &mut StoreSeen| {
            seen.found = Ok(Some(1 << 30));
            free(seen, 0);
        };
        check(full, "space", Level::Warning, &["are allocated", "0B are free"]);
        let no_files = |seen: &mut StoreSeen| seen.file_system.as_mut().expect("seen").free_files = Some(0);
        check(no_files, "space", Level::Failed, &["inodes"]);
    }

    #[test]
    fn file_systems() {
        let bad =
            |seen: &mut StoreSeen| seen.file_system.as_mut().expect("seen").warning = Some("on NFS; go away");
        check(bad, "file system", Level::Warning, &["on NFS", "go away"]);
        check(|seen| seen.file_system = Err("EIO".into()), "file system", Level::Failed, &["EIO"]);
        let tried = |tried: TriedSeen| move |seen: &mut StoreSeen| seen.tried = Some(tried);
        let all = || TriedSeen { preallocation: Ok(()), mapping: Ok(()), direct: Ok(()) };
        let check = |seen: TriedSeen, level, words| check(tried(seen), "a file", level, &[words]);
        check(all(), Level::Ok, "mapped");
        check(TriedSeen { preallocation: Err(Why::Full), ..all() }, Level::Failed, "no room");
        check(TriedSeen { preallocation: Err(Why::Cannot), ..all() }, Level::Failed, "allocated ahead");
        check(TriedSeen { mapping: Err(Why::Cannot), ..all() }, Level::Failed, "in memory");
        check(TriedSeen { direct: Err(Why::Cannot), ..all() }, Level::Ok, "not be read past");
        check(TriedSeen { direct: Err(Why::Other("EIO".into())), ..all() }, Level::Warning, "EIO");
    }
}
