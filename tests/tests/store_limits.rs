//! The store is too small, full, not ours, or not there to be written.
//!
//! While it runs, the daemon serves everything right, whatever fits. When it cannot start, it says what to do
//! and changes nothing: what looks like rubbish may be somebody's data.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use darter_tests::need::{Need, need};
use darter_tests::{BLOCK_BYTES, Blob, Builder, Daemon, Io, Mounted, Origin, Snapshot, on_both_io};
use tempfile::TempDir;

on_both_io!(
    a_blob_larger_than_the_store_streams,
    a_working_set_larger_than_the_store_is_evicted_and_right,
    a_full_disk_refuses_the_start,
    a_read_only_directory_refuses_the_start,
    a_second_daemon_is_refused_and_the_first_goes_on,
    a_newer_format_is_refused,
    a_foreign_store_is_refused,
    a_damaged_header_is_refused,
    another_capacity_is_refused,
    other_files_in_the_directory_stay,
);

const MIB: u64 = 1 << 20;
/// Where `docs/data-format.md` puts the format version into `records`: in the header, and in its second copy.
const VERSIONS_AT: [u64; 2] = [8, 4096 + 8];

fn a_blob_larger_than_the_store_streams(io: Io) {
    for prefetch in [false, true] {
        let origin = Origin::start();
        let blob = origin.blob(1, 150 * MIB + 99);
        let builder = Daemon::builder().over(io).registry(&origin.url()).capacity("64MiB");
        let daemon = builder.prefetch(prefetch).start();
        let tail = blob.len() - 5000..blob.len();
        for range in [tail, 100..10 * MIB, blob.whole(), 140 * MIB..149 * MIB, blob.whole(), 0..1] {
            read(&daemon, &blob, range);
        }
    }
}

fn a_working_set_larger_than_the_store_is_evicted_and_right(io: Io) {
    let origin = Origin::start();
    // Twice the capacity, read in two orders by readers that displace one another's content.
    let blobs: Vec<_> = (0..8).map(|seed| origin.blob(seed, 16 * MIB + seed)).collect();
    let builder = Daemon::builder().over(io).registry(&origin.url()).capacity("64MiB").prefetch(false);
    let mut daemon = builder.start();
    for round in 0..3 {
        thread::scope(|scope| {
            for reader in 0..4 {
                let (daemon, blobs) = (&daemon, &blobs);
                scope.spawn(move || {
                    for index in 0..blobs.len() {
                        let blob = &blobs[(index * 3 + reader) % blobs.len()];
                        match (index + reader + round) % 2 {
                            0 => read(daemon, blob, blob.whole()),
                            _ => (0..16).for_each(|mib| read(daemon, blob, mib * MIB + 7..(mib + 1) * MIB)),
                        }
                    }
                });
            }
        });
    }
    takes_new_content(&origin, &daemon, 100);
    daemon.stop();
    daemon.restart();
    takes_new_content(&origin, &daemon, 101);
}

fn a_full_disk_refuses_the_start(io: Io) {
    if !need("a_full_disk_refuses_the_start", &[Need::Root]) {
        return;
    }
    let directory = TempDir::new().expect("a temporary directory can be made");
    let _small = Mounted::tmpfs(directory.path(), 48 * MIB);
    fs::write(directory.path().join("other"), "of no concern").expect("there is room");
    refused(small(io, directory.path()).capacity("64MiB"), directory.path(), &["space", "--capacity"]);
    // With what fits it starts, and the failed attempt has left no room taken.
    small(io, directory.path()).capacity("32MiB").start().stop();
}

fn a_read_only_directory_refuses_the_start(io: Io) {
    if !need("a_read_only_directory_refuses_the_start", &[Need::Root]) {
        return;
    }
    let empty = TempDir::new().expect("a temporary directory can be made");
    let used = TempDir::new().expect("a temporary directory can be made");
    small(io, used.path()).start().stop();
    for directory in [empty.path(), used.path()] {
        let _read_only = Mounted::read_only(directory);
        refused(small(io, directory), directory, &["--data-dir"]);
    }
}

fn a_second_daemon_is_refused_and_the_first_goes_on(io: Io) {
    let origin = Origin::start();
    let blob = origin.blob(1, 5 * MIB);
    let directory = TempDir::new().expect("a temporary directory can be made");
    let mut first = small(io, directory.path()).registry(&origin.url()).start();
    read(&first, &blob, blob.whole());
    origin.wait_until_quiet();
    origin.forget();
    let (status, said) = small(io, directory.path()).start_refused();
    assert!(!status.success(), "{status}\n{said}");
    mentions(&said, &[&directory.path().display().to_string(), "another", "--data-dir"]);
    read(&first, &blob, blob.whole());
    assert_eq!(origin.blob_bytes(), 0, "the first daemon has lost what it kept");
    first.stop();
    // What is locked is the directory in use, not a file that was left.
    small(io, directory.path()).start().stop();
}

fn a_newer_format_is_refused(io: Io) {
    let (origin, directory, blob) = used_store(io);
    set_version(directory.path(), 2);
    refused(small(io, directory.path()), directory.path(), &["version 2", "newer"]);
    set_version(directory.path(), 1);
    let daemon = small(io, directory.path()).registry(&origin.url()).start();
    read(&daemon, &blob, blob.whole());
    assert_eq!(origin.blob_bytes(), 0, "the refusal has cost content");
}

fn a_foreign_store_is_refused(io: Io) {
    let foreign: [fn(&Path); 4] = [
        |store| {
            fs::create_dir(store).expect("the directory can be made");
            fs::write(store.join("records"), "the records of a choir").expect("the file can be written");
        },
        |store| {
            fs::create_dir(store).expect("the directory can be made");
            fs::write(store.join("records"), vec![0; 1 << 20]).expect("the file can be written");
        },
        |store| {
            fs::create_dir(store).expect("the directory can be made");
            fs::write(store.join("apples"), "5 kg").expect("the file can be written");
        },
        |store| fs::write(store, "closed on Mondays").expect("the file can be written"),
    ];
    for make in foreign {
        let directory = TempDir::new().expect("a temporary directory can be made");
        make(&directory.path().join("store"));
        refused(small(io, directory.path()), directory.path(), &["--data-dir"]);
    }
}

fn a_damaged_header_is_refused(io: Io) {
    let (_origin, directory, _blob) = used_store(io);
    // Behind the version, in each copy.
    VERSIONS_AT.into_iter().for_each(|version_at| overwrite(directory.path(), version_at + 4, &[0xff; 8]));
    refused(small(io, directory.path()), directory.path(), &["damaged", "remove"]);
}

fn another_capacity_is_refused(io: Io) {
    let (origin, directory, blob) = used_store(io);
    let words = [(32 * MIB).to_string(), (48 * MIB).to_string()];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    refused(small(io, directory.path()).capacity("48MiB"), directory.path(), &words);
    let daemon = small(io, directory.path()).registry(&origin.url()).start();
    read(&daemon, &blob, blob.whole());
    assert_eq!(origin.blob_bytes(), 0, "the refusal has cost content");
}

fn other_files_in_the_directory_stay(io: Io) {
    let directory = TempDir::new().expect("a temporary directory can be made");
    let other = directory.path().join("letters");
    fs::create_dir(&other).expect("the directory can be made");
    fs::write(other.join("to-aunt"), "Dear aunt").expect("the file can be written");
    let before = Snapshot::of(&other);
    small(io, directory.path()).start().stop();
    before.assert_unchanged(&other);
}

/// The smallest store that is of use, on a directory that outlives its daemon.
fn small(io: Io, data_dir: &Path) -> Builder {
    Daemon::builder().over(io).capacity("32MiB").prefetch(false).data_dir(data_dir)
}

/// A store with one blob in it, stopped in order.
fn used_store(io: Io) -> (Origin, TempDir, Blob) {
    let origin = Origin::start();
    let blob = origin.blob(1, 5 * MIB);
    let directory = TempDir::new().expect("a temporary directory can be made");
    let mut daemon = small(io, directory.path()).registry(&origin.url()).start();
    read(&daemon, &blob, blob.whole());
    daemon.stop();
    origin.forget();
    (origin, directory, blob)
}

/// The start fails, says where and each of `words`, and leaves the directory as it was.
fn refused(builder: Builder, directory: &Path, words: &[&str]) {
    let before = Snapshot::of(directory);
    let (status, said) = builder.start_refused();
    assert!(!status.success(), "{status}\n{said}");
    mentions(&said, &[&directory.display().to_string()]);
    mentions(&said, words);
    before.assert_unchanged(directory);
}

fn mentions(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "the message does not mention {word:?}:\n{said}");
    }
}

fn set_version(data_dir: &Path, version: u32) {
    VERSIONS_AT.into_iter().for_each(|offset| overwrite(data_dir, offset, &version.to_le_bytes()));
}

fn overwrite(data_dir: &Path, offset: u64, bytes: &[u8]) {
    let records = File::options().write(true).open(data_dir.join("store/records"));
    let records = records.expect("a used store has records");
    records.write_all_at(bytes, offset).expect("the records can be written");
}

fn read(daemon: &Daemon, blob: &Blob, range: Range<u64>) {
    blob.read(&mut daemon.client(), range).expect("a whole answer");
}

/// A full store still keeps what is read twice.
fn takes_new_content(origin: &Origin, daemon: &Daemon, seed: u64) {
    let blob = origin.blob(seed, 4 * BLOCK_BYTES);
    read(daemon, &blob, blob.whole());
    origin.wait_until_quiet();
    origin.forget();
    read(daemon, &blob, blob.whole());
    assert_eq!(origin.blob_bytes(), 0, "a full store takes nothing new");
}
