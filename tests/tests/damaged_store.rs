//! The disk gives back something else than was written, or has to be asked at all.
//!
//! The record of a block says what its bytes must be, so a wrong byte is found when it is to be served,
//! whichever way it is read: by the mapping while its page is in memory, by a read where it is not. What is
//! lost is fetched again; nothing else is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use darter_tests::{BLOCK_BYTES, Blob, Daemon, Io, Origin, on_both_io};
use rustix::fs::{Advice, fadvise, statfs};

on_both_io!(
    what_is_not_in_memory_is_read_from_the_disk,
    flipped_bytes_are_fetched_again,
    records_with_wrong_bytes_cost_what_they_held,
    a_slab_that_was_cut_short_is_filled_again,
);

const MIB: u64 = 1 << 20;
const PIECE_BYTES: u64 = 4 * BLOCK_BYTES;

// The places in `records`, by `docs/data-format.md`.
const CONTENTS_AT: u64 = 24;
const TABLES_AT: u64 = 16_384;
const CONTENT_RECORD_BYTES: u64 = 512;
const LENGTH_AT: u64 = 64;
const SLOT_RECORD_BYTES: usize = 256;

const TMPFS: i64 = 0x0102_1994;

/// A store that holds one blob and is stopped.
struct Stopped {
    origin: Origin,
    blob: Blob,
    daemon: Daemon,
}

impl Stopped {
    fn new(io: Io) -> Stopped {
        let origin = Origin::start();
        let blob = origin.blob(1, 16 * MIB + 123);
        let builder = Daemon::builder().over(io).registry(&origin.url()).capacity("32MiB");
        let mut daemon = builder.prefetch(false).start();
        blob.read(&mut daemon.client(), blob.whole()).expect("a whole answer");
        daemon.stop();
        origin.forget();
        Stopped { origin, blob, daemon }
    }

    fn store(&self) -> PathBuf {
        self.daemon.data_dir().join("store")
    }

    fn slab(&self) -> PathBuf {
        self.store().join("slab-00000")
    }

    /// Starts again and reads everything, in short ranges and as a whole. Returns what that has cost.
    fn cost_of_reading(&mut self) -> u64 {
        self.daemon.restart();
        let mut client = self.daemon.client();
        for start in (0..16 * MIB).step_by(MIB as usize) {
            self.blob.read(&mut client, start + 5..start + MIB).expect("a whole answer");
        }
        self.blob.read(&mut client, self.blob.whole()).expect("a whole answer");
        self.origin.wait_until_quiet();
        self.origin.blob_bytes()
    }
}

fn what_is_not_in_memory_is_read_from_the_disk(io: Io) {
    let mut stopped = Stopped::new(io);
    leave_memory(&stopped.slab());
    assert_eq!(stopped.cost_of_reading(), 0, "what is on the disk is fetched again");
    // A file system in memory has no pages to drop.
    if statfs(stopped.store()).expect("the store is there").f_type != TMPFS {
        assert!(stopped.daemon.metrics().sum("darter_cache_cold_reads_total") > 0.0, "nothing was read cold");
    }
}

fn flipped_bytes_are_fetched_again(io: Io) {
    for in_memory in [true, false] {
        let mut stopped = Stopped::new(io);
        let slab = File::options().read(true).write(true).open(stopped.slab()).expect("the slab is there");
        for flip in 0..32 {
            let (at, mut byte) = (flip * MIB + 70_001 * (flip % 3), [0]);
            slab.read_exact_at(&mut byte, at).expect("the slab can be read");
            slab.write_all_at(&[!byte[0]], at).expect("the slab can be written");
        }
        slab.sync_all().expect("the slab can be synced");
        if !in_memory {
            leave_memory(&stopped.slab());
        }
        let cost = stopped.cost_of_reading();
        // The blob takes half of the store, wherever its pieces lie.
        assert!((1..=32 * PIECE_BYTES).contains(&cost), "{cost} bytes for at most 32 damaged pieces");
    }
}

fn records_with_wrong_bytes_cost_what_they_held(io: Io) {
    for seed in 0..4 {
        let mut stopped = Stopped::new(io);
        let path = stopped.store().join("records");
        let records = File::options().read(true).write(true).open(path).expect("the records are there");
        let flip = |at: u64, bits: u8| {
            let mut byte = [0];
            records.read_exact_at(&mut byte, at).expect("the records can be read");
            records.write_all_at(&[byte[0] ^ bits], at).expect("the records can be written");
        };
        let tables = TABLES_AT..records.metadata().expect("the records are there").len();
        let mut random = fastrand::Rng::with_seed(seed);
        for record in tables.step_by(SLOT_RECORD_BYTES) {
            if random.bool() {
                flip(record + random.u64(..SLOT_RECORD_BYTES as u64), random.u8(1..));
            }
        }
        // The length of the only content, in both copies: what a reader would notice most.
        let mut contents = [0; 4];
        records.read_exact_at(&mut contents, CONTENTS_AT).expect("the header can be read");
        let table_bytes =
            (u64::from(u32::from_le_bytes(contents)) * CONTENT_RECORD_BYTES).next_multiple_of(4096);
        [0, table_bytes].into_iter().for_each(|copy| flip(TABLES_AT + copy + LENGTH_AT, 1));

        let cost = stopped.cost_of_reading();
        assert_eq!(cost, stopped.blob.len(), "whose record is lost is fetched again");
    }
}

fn a_slab_that_was_cut_short_is_filled_again(io: Io) {
    let mut stopped = Stopped::new(io);
    let slab = File::options().write(true).open(stopped.slab()).expect("the slab is there");
    slab.set_len(4 * MIB + 1).expect("the slab can be cut");
    let cost = stopped.cost_of_reading();
    assert!((12 * MIB - PIECE_BYTES..=stopped.blob.len()).contains(&cost), "{cost} bytes for 12 MiB cut off");
}

/// Drops the file's pages; nobody maps it while the daemon is stopped.
fn leave_memory(file: &Path) {
    let file = File::open(file).expect("the file is there");
    file.sync_all().expect("the file can be synced");
    fadvise(&file, 0, None, Advice::DontNeed).expect("pages can be dropped");
}
