//! The scrub on real stores: what it finds, what it costs, and what it leaves alone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise, statfs};

use super::{For, Reading, Scrub, ScrubOptions};
use crate::content::{Content, Verification};
use crate::hashed_block::HashedBlock;
use crate::layout::BLOCK_BYTES;
use crate::ring::{Backend, run_shard};
use crate::slot::{SlotIndex, SlotState};
use crate::small_store::{self, REGISTRY, sample, scope};
use crate::store::Store;

const BLOCK: usize = BLOCK_BYTES as usize;
const PIECE: usize = 4 * BLOCK;
const TMPFS: i64 = 0x0102_1994;
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// As fast as it goes.
const QUICK: ScrubOptions = ScrubOptions { bytes_per_s: 1 << 40, interval: WEEK };

/// A store in a directory of its own, and no thread that scrubs it.
struct Node {
    directory: tempfile::TempDir,
    store: Store,
    backend: Backend,
}

/// Runs one case for each backend.
fn check(case: impl Fn(&Node)) {
    for backend in [Backend::Ring, Backend::Pool] {
        if backend == Backend::Ring
            && let Err(reason) = Backend::probe()
        {
            eprintln!("SKIPPED: the ring's half of this test: {reason}");
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), backend);
        let node = Node { directory, store, backend };
        case(&node);
        node.store.close();
    }
}

fn open(directory: &Path, backend: Backend) -> Store {
    small_store::open(directory, backend, 256)
}

/// Writes a content in runs of four pieces; what finds no room is left out.
async fn put(store: &Store, bytes: &[u8]) -> Arc<Content> {
    let content = store.create(&small_store::spec(bytes)).unwrap();
    let mut rest = content.layout().whole();
    while let Some(run) = rest {
        let run = run.take(16);
        if let Ok(reservation) = store.reserve(&content, run).await {
            let range = content.layout().bytes(run);
            let blocks = bytes[range.start as usize..range.end as usize].chunks(BLOCK);
            let blocks = blocks.map(Bytes::copy_from_slice).map(HashedBlock::new).collect();
            let _ = store.write(&Arc::new(reservation), run.first(), blocks, REGISTRY).await;
        }
        rest = rest.and_then(|rest| rest.skip(16));
    }
    content
}

impl Node {
    /// A content that is whole, durable and proved.
    fn held(&self, seed: u8, length: usize) -> Arc<Content> {
        let store = &self.store;
        let held = async {
            let content = put(store, &sample(seed, length)).await;
            while content.verification() != Verification::Passed {
                store.advance(&content);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            store.flush().await.unwrap();
            content
        };
        run_shard(self.backend, held).unwrap()
    }

    fn scrub(&self) -> Scrub {
        self.store.inner.scrub.set(QUICK);
        let records = self.directory.path().join("store/records");
        Scrub::new(self.store.inner.clone(), OpenOptions::new().read(true).write(true).open(records).ok())
    }

    /// One round, to its end.
    fn round(&self) {
        let mut scrub = self.scrub();
        while scrub.turn(QUICK).is_zero() {}
    }

    fn slab(&self) -> File {
        let path = self.directory.path().join("store/slab-00000");
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    /// Changes a block on the disk, and leaves no page of the slab in memory.
    fn change(&self, content: &Content, block: u32, change: impl Fn(&mut [u8])) {
        let block = content.layout().block(block).unwrap();
        let (_, at) = self.store.inner.place_of(content.slot_of(block.piece()).unwrap());
        let at = (at + block.in_piece() as usize * BLOCK) as u64;
        let slab = self.slab();
        let mut bytes = vec![0; content.layout().block_bytes(block) as usize];
        slab.read_exact_at(&mut bytes, at).unwrap();
        change(&mut bytes);
        slab.write_all_at(&bytes, at).unwrap();
        slab.sync_all().unwrap();
        self.leave_memory();
    }

    fn leave_memory(&self) {
        let slab = self.slab();
        slab.sync_all().unwrap();
        self.store.inner.slabs[0].let_go_of_pages().unwrap();
        fadvise(&slab, 0, None, Advice::DontNeed).unwrap();
    }

    /// Which pieces of the slab are in memory.
    fn in_memory(&self) -> Vec<bool> {
        let slab = &self.store.inner.slabs[0];
        (0..64).map(|slot| slab.resident(slot * PIECE..(slot + 1) * PIECE)).collect()
    }

    fn is_in_memory(&self, slot: SlotIndex) -> bool {
        self.in_memory()[slot.0 as usize]
    }

    /// Whether the slabs are on a file system that has nothing but memory.
    fn has_no_disk(&self) -> bool {
        statfs(self.directory.path()).unwrap().f_type == TMPFS
    }

    fn read(&self, content: &Content) -> Result<Vec<u8>, crate::store::ReadError> {
        let whole = content.layout().whole().unwrap();
        run_shard(self.backend, async { Ok(self.store.read(content, scope(), whole).await?.concat()) })
            .unwrap()
    }
}

#[test]
fn a_byte_that_the_disk_changed_is_found_and_costs_its_piece_alone() {
    check(|node| {
        let (content, other) = (node.held(1, (1 << 20) + 7), node.held(2, 3 << 18));
        node.round();
        let stats = node.store.stats();
        assert_eq!((stats.scrubbed_blocks, stats.scrubbed_bad_blocks), (17 + 12, 0));
        node.change(&content, 6, |bytes| bytes[1234] ^= 1);
        let mut scrub = node.scrub();
        scrub.course.after_unclean_stop(1);
        while scrub.turn(QUICK).is_zero() {}
        let stats = node.store.stats();
        assert_eq!((stats.scrubbed_bad_blocks, stats.checks_failed, stats.leases), (1, 0, 0));
        let status = node.store.scrub_status();
        // Two blocks of its piece come before it, and none behind it is looked at.
        assert_eq!((status.last_checked_blocks, status.last_bad_blocks), (17 + 12 - 1, 1));
        assert_eq!(node.store.stat(&content).held_bytes, (3 << 18) + 7);
        assert_eq!(node.store.stat(&other).held_bytes, 3 << 18);
        let error = node.read(&content).unwrap_err();
        assert!(matches!(error, crate::store::ReadError::Absent(block) if block.number() == 4), "{error}");
        run_shard(node.backend, put(&node.store, &sample(1, (1 << 20) + 7))).unwrap();
        assert_eq!(node.read(&content).unwrap(), sample(1, (1 << 20) + 7));
    });
}

#[test]
fn a_change_that_keeps_its_crc32_is_found_by_the_blake3_of_the_record() {
    check(|node| {
        let content = node.held(3, 1 << 19);
        // The generator of crc32, in the order of the bits on the wire: any multiple of it changes no remainder.
        let generator = (1u64 << 32 | 0x04c1_1db7).reverse_bits() >> 31;
        let before = content.slots().count();
        node.change(&content, 1, |bytes| {
            let sum = crc32fast::hash(bytes);
            bytes.iter_mut().zip(generator.to_le_bytes()).for_each(|(byte, bits)| *byte ^= bits);
            assert_eq!(crc32fast::hash(bytes), sum);
        });
        node.round();
        assert_eq!(node.store.stats().scrubbed_bad_blocks, 1);
        assert_eq!(content.slots().count(), before - 1);
    });
}

#[test]
fn a_whole_that_is_another_than_its_digest_says_is_purged() {
    check(|node| {
        let (content, right) = (node.held(4, 1 << 19), node.held(5, 1 << 19));
        // Wrong in memory and on the disk alike: then nothing but the digest knows.
        node.change(&content, 3, |bytes| bytes[0] ^= 1);
        let block = content.layout().block(3).unwrap();
        let (slot, mut bytes) =
            (content.slot_of(block.piece()).unwrap(), sample(4, 1 << 19)[3 * BLOCK..4 * BLOCK].to_vec());
        bytes[0] ^= 1;
        node.store.inner.slots.publish(slot, block, crc32fast::hash(&bytes));
        node.round();
        let stats = node.store.stats();
        assert_eq!((stats.scrubbed_bad_blocks, stats.scrubbed_wrong_digests), (0, 1));
        assert!(content.is_gone() && !right.is_gone());
    });
}

#[test]
fn a_round_leaves_the_page_cache_as_it_was() {
    check(|node| {
        if node.has_no_disk() {
            return eprintln!("SKIPPED: a directory on a disk is needed; set TMPDIR");
        }
        let (cold, hot) = (node.held(6, 4 << 20), node.held(7, 1 << 20));
        node.leave_memory();
        node.read(&hot).unwrap();
        let before = node.in_memory();
        let slots = |content: &Content| content.slots().map(|(_, slot)| slot).collect::<Vec<_>>();
        assert!(slots(&hot).iter().all(|slot| node.is_in_memory(*slot)), "read, and not in memory");
        assert!(!slots(&cold).iter().any(|slot| node.is_in_memory(*slot)), "in memory, and not read");
        node.round();
        assert_eq!(node.store.stats().scrubbed_blocks, 64 + 16);
        assert_eq!(node.in_memory(), before);
    });
}

#[test]
fn pinned_contents_are_brought_into_memory_as_far_as_is_allowed() {
    check(|node| {
        if node.has_no_disk() {
            return eprintln!("SKIPPED: a directory on a disk is needed; set TMPDIR");
        }
        let (pinned, other) = (node.held(8, 2 << 20), node.held(9, 1 << 20));
        node.store.set_pinned(&pinned, true);
        let hot_pieces =
            |content: &Content| content.slots().filter(|(_, slot)| node.is_in_memory(*slot)).count();
        for (allowed_bytes, expected) in [(0, 0), (3 << 18, 3), (64 << 20, 8)] {
            node.leave_memory();
            let mut scrub = node.scrub();
            scrub.warm_up(allowed_bytes);
            assert_eq!((hot_pieces(&pinned), hot_pieces(&other)), (expected, 0), "{allowed_bytes}");
        }
    });
}

/// While a piece is read its slot is nobody else's, whatever becomes of its content.
#[test]
fn a_piece_that_is_read_keeps_its_slot() {
    check(|node| {
        let content = node.held(11, 1 << 18);
        let inner = &node.store.inner;
        let layout = content.layout();
        let (piece, slot) = (layout.piece(0).unwrap(), content.slots().next().unwrap().1);
        let blocks: Vec<_> = layout.whole().unwrap().blocks().collect();
        let reading = Reading::new(content.clone(), For::Scrub, true);
        let leased = reading.lease(inner, piece, &blocks).unwrap();
        node.store.remove(&content);
        assert!(reading.lease(inner, piece, &blocks).is_none(), "a slot that is being released");
        run_shard(node.backend, node.store.flush()).unwrap().unwrap();
        let word = inner.slots.word(slot);
        assert_eq!((word.state, word.leases), (SlotState::Releasing, 1), "given away while it was read");
        drop(leased);
        while inner.slots.word(slot).state != SlotState::Free {
            pause();
        }
    });
}

/// Pieces come, grow, are evicted and removed while they are read: none of that is the disk's fault.
#[test]
fn a_round_among_writers_and_evictions_finds_nothing_bad() {
    check(|node| {
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let load = async {
                    // A working set of 24 MiB in a store of 16.
                    for turn in 0..48u8 {
                        let content = put(&node.store, &sample(turn % 12, (2 << 20) + 7)).await;
                        if turn % 4 == 0 {
                            let _ = node.store.flush().await;
                        }
                        if turn % 5 == 0 {
                            node.store.remove(&content);
                        }
                    }
                };
                run_shard(node.backend, load).unwrap();
                done.store(true, Ordering::Relaxed);
            });
            let mut scrub = node.scrub();
            while !done.load(Ordering::Relaxed) {
                scrub.turn(ScrubOptions { interval: Duration::ZERO, ..QUICK });
            }
        });
        // The hasher may have a lease of its own still.
        node.store.close();
        let stats = node.store.stats();
        assert!(stats.scrubbed_blocks > 0, "nothing was read");
        assert_eq!((stats.scrubbed_bad_blocks, stats.scrubbed_wrong_digests, stats.leases), (0, 0, 0));
    });
}

#[test]
fn a_stop_in_a_round_is_gone_on_from() {
    check(|node| {
        let content = node.held(10, 8 << 20);
        // Slow enough that it cannot be through before it is stopped: half a minute for all.
        let slow = ScrubOptions { bytes_per_s: 256 << 10, ..QUICK };
        node.store.start_scrub(slow, 0).unwrap();
        let round = || node.store.scrub_status().round;
        let reached = |piece: u32| round().is_some_and(|round| round.next.piece >= piece);
        while !reached(2) {
            pause();
        }
        node.store.close();
        let before = round().unwrap();
        assert!(!node.store.scrub_status().on);
        assert_eq!((before.urgent, before.next.place), (false, content.place));
        let directory = tempfile::tempdir().unwrap();
        copy(node.directory.path(), directory.path());
        let again = open(directory.path(), node.backend);
        again.start_scrub(ScrubOptions { bytes_per_s: 0, ..slow }, 0).unwrap();
        assert_eq!(again.scrub_status().round, Some(before));
        // Of a store whose daemon was not stopped, everything is checked, from there on.
        let crashed = tempfile::tempdir().unwrap();
        copy(directory.path(), crashed.path());
        let after = open(crashed.path(), node.backend);
        assert!(!after.clean_start());
        after.start_scrub(ScrubOptions { bytes_per_s: 0, ..slow }, 0).unwrap();
        let urgent = after.scrub_status().round.unwrap();
        assert_eq!((urgent.urgent, urgent.from, urgent.next), (true, before.next, before.next));
        after.set_scrub(QUICK);
        while after.scrub_status().ended_at_s == 0 {
            pause();
        }
        assert_eq!(after.scrub_status().last_checked_blocks, 128);
        after.close();
        again.close();
    });
}

/// Until another thread has got on.
#[expect(clippy::disallowed_methods, reason = "a test has a thread of its own")]
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// A data directory as it stands on the disk now.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to.join("store")).unwrap();
    for entry in std::fs::read_dir(from.join("store")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join("store").join(entry.file_name())).unwrap();
    }
}
