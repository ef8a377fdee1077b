//! The index beside slots and piece tables: find, lease, look again, while a content goes and another comes.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::{model, thread};
use sha2::{Digest, Sha256};

use crate::content::{Content, ContentSpec};
use crate::content_id::{ContentId, Naming, RegistryScope, Scope};
use crate::format::Geometry;
use crate::index::{Index, Rescoped};
use crate::layout::{BlockIndex, Layout};
use crate::slot::{SlotIndex, SlotTable, Tenant};
use crate::{FIRST, SECOND, SLOT, block, piece};

const HONEST: &str = "https://honest.example:443";
const LIAR: &str = "https://liar.example:443";

/// One slot with two blocks, and an index with one content in it.
struct World {
    index: Index,
    slots: SlotTable,
    bytes: [AtomicU32; 2],
}

fn spec(name: u8, registry: &str) -> ContentSpec {
    const TWO_BLOCKS: u64 = 1 << 17;
    let Some(layout) = Layout::new(TWO_BLOCKS) else { unreachable!("a content has some bytes") };
    ContentSpec {
        id: ContentId::from_bytes([name; 32]),
        naming: Naming::Digest,
        layout,
        registry: registry.into(),
        media_type: String::new(),
        validator: String::new(),
    }
}

fn scope(registry: &str) -> RegistryScope {
    RegistryScope::of_origin(registry)
}

fn second_block() -> BlockIndex {
    match spec(0, HONEST).layout.block(1) {
        Some(block) => block,
        None => unreachable!("a content of 128 KiB has two blocks"),
    }
}

impl World {
    fn new() -> Arc<Self> {
        let Some(geometry) = Geometry::for_capacity(Geometry::CAPACITY_BYTES_MIN) else {
            unreachable!("the smallest store")
        };
        let bytes = [AtomicU32::new(0), AtomicU32::new(0)];
        Arc::new(Self { index: Index::new(geometry), slots: SlotTable::new(1), bytes })
    }

    fn create(&self, name: u8, registry: &str) -> Arc<Content> {
        match self.index.create(&spec(name, registry)) {
            Some(content) => content,
            None => unreachable!("there are places for more contents than a case makes"),
        }
    }

    /// A content of that name with its first block in the slot, as a reservation and a write leave it.
    fn fill(&self, name: u8, registry: &str, bytes: u32) -> Arc<Content> {
        let content = self.create(name, registry);
        let lease = self.slots.occupy(SLOT, Tenant { content: content.place, piece: 0 }, 0);
        content.set_slot(piece(), SLOT);
        self.write(block(), bytes);
        drop(lease);
        content
    }

    fn write(&self, block: BlockIndex, bytes: u32) {
        self.bytes[block.in_piece() as usize].store(bytes, Ordering::Relaxed);
        self.slots.publish(SLOT, block, bytes);
    }

    /// As the store removes a content: out of sight, then its pieces, then its record's place.
    fn remove(&self, content: &Arc<Content>) {
        self.index.hide(content);
        let pieces: Vec<(u32, SlotIndex)> = content.slots().collect();
        for (piece, slot) in pieces {
            if content.clear_slot(piece, slot) {
                assert!(self.slots.release(slot));
            }
        }
    }

    /// What a reader of that registry gets of a block.
    fn read(&self, name: u8, registry: &str, block: BlockIndex) -> Option<u32> {
        let content = self.index.find(&spec(name, registry).id, scope(registry))?;
        let slot = content.slot_of(piece())?;
        let lease = content.lease(piece(), slot, &self.slots)?;
        if self.slots.presence(slot) & 1 << block.in_piece() == 0 || !content.serves(scope(registry)) {
            return None;
        }
        let bytes = self.bytes[block.in_piece() as usize].load(Ordering::Relaxed);
        assert_eq!(self.slots.crc32(slot, block), bytes, "another block's checksum is read");
        drop(lease);
        Some(bytes)
    }

    /// What is found under a name has its place, and no place has what is gone.
    fn check(&self) {
        let places = self.index.places();
        for content in places.contents().filter(|content| !content.is_gone()) {
            let Scope::Registry(registry) = content.scope() else { continue };
            let found = self.index.find(&content.id(), registry);
            assert!(found.is_some_and(|found| Arc::ptr_eq(&found, content)), "what has a place is not found");
        }
        for (name, registry) in [(1, HONEST), (1, LIAR), (2, HONEST)] {
            let Some(found) = self.index.find(&spec(name, registry).id, scope(registry)) else { continue };
            assert!(!found.is_gone(), "what is gone is found");
            let own = places.content(found.place).is_some_and(|own| Arc::ptr_eq(own, &found));
            assert!(own, "what is found has no place");
        }
    }
}

/// A reader by name, while the content goes and another takes its place in the table and its slot.
pub fn a_reader_by_name_never_gets_the_next_content() {
    model(|| {
        let world = World::new();
        let content = world.fill(1, HONEST, FIRST);
        let reading = world.clone();
        let reader = thread::spawn(move || {
            if let Some(bytes) = reading.read(1, HONEST, block()) {
                assert_eq!(bytes, FIRST, "the next content's bytes are read");
            }
        });
        world.remove(&content);
        if world.slots.vacate(SLOT) {
            world.index.vacate(&content);
            let next = world.fill(2, HONEST, SECOND);
            assert_eq!(next.place, content.place, "the case is about a place that is used again");
        }
        assert!(reader.join().is_ok());
        world.check();
        assert_eq!(world.slots.leases(), 0);
    });
}

/// Two who want one name get one content.
pub fn a_name_has_one_content() {
    model(|| {
        let world = World::new();
        let other = world.clone();
        let other = thread::spawn(move || other.create(1, HONEST).tenure);
        let own = world.create(1, HONEST).tenure;
        assert_eq!(other.join().ok(), Some(own));
        assert_eq!(world.index.places().len(), 1);
        world.check();
    });
}

/// One removes a content while another makes it: what is there then is whole, and not gone.
pub fn a_content_is_made_while_it_is_removed() {
    model(|| {
        let world = World::new();
        let content = world.create(1, HONEST);
        let other = world.clone();
        let other = thread::spawn(move || other.create(1, HONEST));
        world.index.hide(&content);
        world.index.vacate(&content);
        let Ok(made) = other.join() else { panic!("making it failed") };
        assert!(Arc::ptr_eq(&made, &content) || !made.is_gone());
        world.check();
    });
}

/// A content changes its registry while it is removed: under no name is it found then.
pub fn what_is_removed_is_not_found_under_another_registry() {
    model(|| {
        let world = World::new();
        let content = world.create(1, HONEST);
        let (moving, moved) = (world.clone(), content.clone());
        let mover = thread::spawn(move || moving.index.rescope(&moved, Scope::Registry(scope(LIAR))));
        world.index.hide(&content);
        world.index.vacate(&content);
        assert!(matches!(mover.join(), Ok(Rescoped::Done | Rescoped::Gone)));
        for registry in [HONEST, LIAR] {
            assert!(world.index.find(&content.id(), scope(registry)).is_none());
        }
        world.check();
    });
}

/// A content's digest turns out to be right: whoever looks for it meanwhile finds it.
pub fn what_passes_is_found_all_the_while() {
    model(|| {
        let Some(empty) = Layout::new(0) else { unreachable!("a content may be empty") };
        let nothing = ContentSpec {
            id: ContentId::from_bytes(Sha256::digest(b"").into()),
            layout: empty,
            ..spec(0, HONEST)
        };
        let world = World::new();
        let Some(content) = world.index.create(&nothing) else { unreachable!("there are places") };
        let looking = world.clone();
        let reader = thread::spawn(move || looking.index.find(&nothing.id, scope(HONEST)).is_some());
        assert_eq!(world.index.rescope(&content, Scope::Verified), Rescoped::Done);
        assert_eq!(content.scope(), Scope::Verified, "the case is about a content that moves");
        assert_eq!(reader.join().ok(), Some(true), "what is there was not found");
        world.check();
    });
}

/// Unverified bytes of another registry come: whoever reads under the first one never gets them.
pub fn bytes_of_another_registry_are_its_own() {
    bytes_of_another_registry(|world, content| {
        content.set_registry(LIAR);
        assert_eq!(world.index.rescope(content, Scope::Registry(scope(LIAR))), Rescoped::Done);
        world.write(second_block(), SECOND);
    });
}

/// The same with a writer who tells the index afterwards.
pub fn bytes_before_their_registry() {
    bytes_of_another_registry(|world, content| {
        world.write(second_block(), SECOND);
        assert_eq!(world.index.rescope(content, Scope::Registry(scope(LIAR))), Rescoped::Done);
    });
}

fn bytes_of_another_registry(write: impl Fn(&World, &Arc<Content>) + Send + Sync + 'static) {
    model(move || {
        let world = World::new();
        let content = world.fill(1, HONEST, FIRST);
        let reading = world.clone();
        let reader = thread::spawn(move || {
            assert_eq!(reading.read(1, HONEST, second_block()), None, "another registry's bytes are read");
        });
        write(&world, &content);
        assert!(reader.join().is_ok(), "another registry's bytes were read");
        world.check();
    });
}
