//! The slot word, the piece table and the index of `darter-engine`, compiled against loom's atomics and locks.
//!
//! The files are the engine's own, included by path, so the daemon never sees a model of an atomic, and the model never
//! a copy of the code. Each case is run in every interleaving that loom finds, with what the memory model allows in it.
//! A slot's bytes are a cell that loom watches: a read beside a write that it is not ordered with is an error, as is
//! another tenant's value.
#![forbid(unsafe_code)]
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the files are the engine's, which uses the rest"
)]

#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/content.rs"]
mod content;
#[path = "../../src/content_id.rs"]
mod content_id;
#[path = "../../src/format/mod.rs"]
mod format;
#[path = "../../src/from_disk.rs"]
mod from_disk;
#[path = "../../src/frontier.rs"]
mod frontier;
#[path = "../../src/index.rs"]
mod index;
mod index_cases;
#[path = "../../src/layout.rs"]
mod layout;
mod map;
#[path = "../../src/piece_table.rs"]
mod piece_table;
#[path = "../../src/slot.rs"]
mod slot;

mod sync {
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic};

    pub(crate) use crate::map::Map;

    pub(crate) const IS_PLAIN: bool = false;
}

pub use index_cases::*;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use layout::{BlockIndex, Layout, PieceIndex};
use piece_table::PieceTable;
use slot::{Leases, SlotIndex, SlotTable, Tenant};

const SLOT: SlotIndex = SlotIndex(0);

/// One slot, two contents of one piece that want it, and what is in it.
struct World {
    slots: SlotTable,
    first: PieceTable,
    second: PieceTable,
    bytes: AtomicU32,
}

const FIRST: u32 = 1;
const SECOND: u32 = 2;

fn piece() -> PieceIndex {
    block().piece()
}

fn block() -> BlockIndex {
    match Layout::new(1).and_then(|layout| layout.block(0)) {
        Some(block) => block,
        None => unreachable!("a content of one byte has one block"),
    }
}

impl World {
    /// The first content holds the slot.
    fn new() -> Arc<Self> {
        let world = Self {
            slots: SlotTable::new(1),
            first: PieceTable::new(1),
            second: PieceTable::new(1),
            bytes: AtomicU32::new(0),
        };
        world.move_in(0, &world.first, FIRST);
        Arc::new(world)
    }

    /// A new tenant comes into the free slot, as a reservation and a write do it.
    fn move_in(&self, content: u32, table: &PieceTable, bytes: u32) {
        let lease = self.slots.occupy(SLOT, Tenant { content, piece: 0 }, 0);
        table.set(piece(), SLOT);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.slots.publish(SLOT, block(), bytes);
        drop(lease);
    }

    /// Gives the slot back if nobody leases it, and to the second content then.
    fn hand_on(&self) {
        if self.slots.vacate(SLOT) {
            self.move_in(1, &self.second, SECOND);
        }
    }

    /// Reads as a reader of the first content does.
    fn read(&self, lease: impl FnOnce(SlotIndex) -> Option<Leases>) {
        let Some(leased) = self.first.slot_of(piece()).and_then(lease) else { return };
        if self.slots.presence(SLOT) & 1 != 0 {
            assert_eq!(self.bytes.load(Ordering::Relaxed), FIRST, "the next tenant's bytes are read");
            assert_eq!(self.slots.crc32(SLOT, block()), FIRST, "the next tenant's checksum is read");
        }
        drop(leased);
    }
}

/// A reader of the first content, while its slot is evicted and goes to the second one.
pub fn a_reader_never_sees_the_next_tenant() {
    loom::model(|| {
        let world = World::new();
        let reading = world.clone();
        let reader =
            thread::spawn(move || reading.read(|slot| reading.first.lease(piece(), slot, &reading.slots)));
        if world.slots.release_unleased(SLOT) {
            world.first.clear(0, SLOT);
            world.hand_on();
        }
        assert!(reader.join().is_ok());
        assert_eq!((world.slots.leases(), world.slots.word(SLOT).leases), (0, 0));
    });
}

/// The same with a reader that does not look at the piece table again.
pub fn a_reader_that_looks_once() {
    loom::model(|| {
        let world = World::new();
        let reading = world.clone();
        let reader = thread::spawn(move || reading.read(|slot| reading.slots.lease(slot)));
        if world.slots.release_unleased(SLOT) {
            world.first.clear(0, SLOT);
            world.hand_on();
        }
        assert!(reader.join().is_ok(), "the next tenant's bytes were read");
    });
}

/// A piece that is lost while it is read: its slot is given back when the last lease has gone, and not before.
pub fn a_lost_piece_stays_until_its_reader_is_done() {
    loom::model(|| {
        let world = World::new();
        let reading = world.clone();
        let reader =
            thread::spawn(move || reading.read(|slot| reading.first.lease(piece(), slot, &reading.slots)));
        world.first.clear(0, SLOT);
        assert!(world.slots.release(SLOT));
        world.hand_on();
        assert!(reader.join().is_ok());
        // Given back now, or before.
        let later = world.slots.vacate(SLOT);
        assert_eq!(world.second.slot_of(piece()).is_none(), later);
    });
}

/// A look at a block while a read of its slot from the disk begins: that it was right counts for nobody.
pub fn no_check_outlives_the_beginning_of_a_read() {
    loom::model(|| {
        let slots = SlotTable::new(1);
        let leases = slots.occupy(SLOT, Tenant { content: 0, piece: 0 }, 0);
        let looking = slots.clone();
        let look = thread::spawn(move || looking.note_checked(SLOT, block(), 1));
        let read = slots.read_from_disk(&leases);
        assert!(look.join().is_ok());
        assert!(!slots.checked_lately(SLOT, block(), 1), "what the read brings is served unchecked");
        drop(read);
    });
}

/// Two writers of one block and a reader: one writes, and who sees the block sees its checksum.
pub fn a_block_has_one_writer() {
    loom::model(|| {
        let slots = SlotTable::new(1);
        let reservation = slots.occupy(SLOT, Tenant { content: 0, piece: 0 }, 0);
        let written = Arc::new(AtomicU32::new(0));
        let write = |slots: SlotTable, written: Arc<AtomicU32>| {
            move || {
                if slots.claim(SLOT, block()) {
                    written.fetch_add(1, Ordering::Relaxed);
                    slots.publish(SLOT, block(), FIRST);
                    slots.disclaim(SLOT, block());
                }
            }
        };
        let other = thread::spawn(write(slots.clone(), written.clone()));
        let reading = slots.clone();
        let reader = thread::spawn(move || {
            if reading.presence(SLOT) & 1 != 0 {
                assert_eq!(reading.crc32(SLOT, block()), FIRST);
            }
        });
        write(slots.clone(), written.clone())();
        assert!(other.join().is_ok() && reader.join().is_ok());
        assert_eq!(written.load(Ordering::Relaxed), 1);
        drop(reservation);
    });
}
