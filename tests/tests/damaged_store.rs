//! The disk gives back something else than was written, or has to be asked at all.
//!
//! The record of a block says what its bytes must be, so a wrong byte is found when it is to be served,
//! whichever way it is read: by the mapping while its page is in memory, by a read where it is not. What is
//! lost is fetched again; nothing else is.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use darter_tests::{BLOCK_BYTES, Blob, Daemon, Holdings, Io, Origin, on_both_io, pause, wait_until};
use rustix::fs::{Advice, fadvise, statfs};

on_both_io!(
    what_is_not_in_memory_is_read_from_the_disk,
    flipped_bytes_are_fetched_again,
    a_byte_changed_beneath_a_running_daemon_costs_its_piece,
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

fn a_byte_changed_beneath_a_running_daemon_costs_its_piece(io: Io) {
    for change in [change_in_memory, change_on_disk] {
        let origin = Origin::start();
        let blob = origin.blob(1, 8 * MIB + 123);
        let builder = Daemon::builder().over(io).registry(&origin.url()).capacity("32MiB");
        let daemon = builder.prefetch(false).start();
        let mut client = daemon.client();
        blob.read(&mut client, blob.whole()).expect("a whole answer");
        let durable = || Holdings::now(&daemon).durable_pieces(&blob.digest()) == 33;
        wait_until(Duration::from_secs(30), durable, || "the blob is not on the disk".to_owned());
        let slab = daemon.data_dir().join("store/slab-00000");
        let mut bill_of_reading = |changed: u64, range: Range<u64>| {
            change(&slab, place_of(&blob, changed, &slab) + 1234);
            // What was found right within this second is not looked at again.
            pause(Duration::from_millis(1100));
            origin.forget();
            blob.read(&mut client, range).expect("a whole answer");
            let bill = origin.bytes_by_block(&blob);
            (0..).zip(bill).filter(|(_, bytes)| *bytes > 0).collect::<Vec<(u64, u64)>>()
        };
        let within_a_block = 42 * BLOCK_BYTES + 100..42 * BLOCK_BYTES + 2000;
        assert_eq!(bill_of_reading(42, within_a_block), [(42, BLOCK_BYTES)], "its block alone");
        // The piece of that block has gone with it, and is fetched with the piece that is damaged now.
        let pieces = [40, 41, 43, 96, 97, 98, 99].map(|block| (block, BLOCK_BYTES));
        assert_eq!(bill_of_reading(97, blob.whole()), pieces, "whole pieces and no more");
        // What came for block 42 started the digest anew, and the hasher may have block 97's slot on lease when the reader
        // has: then both find it wrong. Once its piece is dropped nobody finds the slot again, so there are no more.
        assert!((2.0..=3.0).contains(&daemon.metrics().sum("darter_cache_checks_failed_total")));
        origin.forget();
        blob.read(&mut client, blob.whole()).expect("a whole answer");
        assert_eq!(origin.blob_bytes(), 0, "what was fetched again is kept");
    }
}

/// Where a block lies in the slab.
fn place_of(blob: &Blob, block: u64, slab: &Path) -> u64 {
    let slab = File::open(slab).expect("the slab is there");
    let wanted = blob.bytes(block * BLOCK_BYTES..block * BLOCK_BYTES + 64);
    let mut found = [0; 64];
    let mut places = (0..).step_by(BLOCK_BYTES as usize);
    let place = places.find(|place| {
        slab.read_exact_at(&mut found, *place).expect("the block is in the slab");
        found[..] == wanted
    });
    place.expect("the search has no end")
}

/// As another process's write does: the page is changed where the daemon has it mapped.
fn change_in_memory(slab: &Path, at: u64) {
    let slab = File::options().read(true).write(true).open(slab).expect("the slab is there");
    let mut byte = [0];
    slab.read_exact_at(&mut byte, at).expect("the slab can be read");
    slab.write_all_at(&[!byte[0]], at).expect("the slab can be written");
}

/// Beneath the page, which leaves memory by that.
fn change_on_disk(slab: &Path, at: u64) {
    const PAGE_BYTES: usize = 4096;
    let mut direct = File::options();
    direct.read(true).write(true).custom_flags(libc::O_DIRECT);
    let slab = direct.open(slab).expect("the file system takes O_DIRECT");
    // Such I/O wants memory that is aligned like the disk.
    let mut memory = vec![0; 2 * PAGE_BYTES];
    let start = memory.as_ptr().align_offset(PAGE_BYTES);
    let page = &mut memory[start..start + PAGE_BYTES];
    let (first, within) = (at / PAGE_BYTES as u64 * PAGE_BYTES as u64, at as usize % PAGE_BYTES);
    slab.read_exact_at(page, first).expect("the slab can be read");
    page[within] ^= 0xff;
    slab.write_all_at(page, first).expect("the slab can be written");
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
