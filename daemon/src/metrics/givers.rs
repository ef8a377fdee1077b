//! Who brought the blocks that came last: whose bytes a reader sends that it has waited for, although it reads them
//! out of the store.
//!
//! A table with a word for each of so many blocks, in which a later block takes the place of an earlier one; neighbours
//! have places beside each other, so that one content does not push out its own. Who has waited for a block asks for it
//! moments later; what has been pushed out meanwhile counts as the origin's, so that other nodes are never praised for
//! what they have not given.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

use darter_engine::BlockIndex;

use crate::fetch::FetchKey;

/// Places for blocks, a power of two: as many as 8 GiB has; 512 KiB.
const PLACES: usize = 1 << 17;
/// Of a word: it is taken.
const TAKEN: u32 = 1;
/// Of a word: other nodes gave the block.
const BY_PEERS: u32 = 2;

/// From where a block has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Giver {
    Peers,
    Origin,
}

/// Of one node.
#[derive(Debug)]
pub(crate) struct Givers {
    places: Box<[AtomicU32]>,
    /// Not to be foreseen by who chooses names of contents.
    hashing: RandomState,
}

impl Default for Givers {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU32::new(0)).collect(), hashing: RandomState::new() }
    }
}

impl Givers {
    /// A block of that content has come.
    pub(crate) fn note(&self, key: &FetchKey, block: BlockIndex, giver: Giver) {
        let (place, mark) = self.place(key, block);
        let given = if giver == Giver::Peers { BY_PEERS } else { 0 };
        place.store(mark | given, Ordering::Relaxed);
    }

    /// From where it came last, if that is still known.
    pub(crate) fn of(&self, key: &FetchKey, block: BlockIndex) -> Option<Giver> {
        let (place, mark) = self.place(key, block);
        let noted = place.load(Ordering::Relaxed);
        match noted & BY_PEERS {
            _ if noted & !BY_PEERS != mark => None,
            0 => Some(Giver::Origin),
            _ => Some(Giver::Peers),
        }
    }

    fn place(&self, key: &FetchKey, block: BlockIndex) -> (&AtomicU32, u32) {
        let hash = self.hashing.hash_one(key);
        let place = (hash as usize).wrapping_add(block.number() as usize) % PLACES;
        // Which of the blocks that have this place: by the content, and by how often the places have been gone round.
        let mark = ((hash >> 32) as u32).wrapping_add((block.number() / PLACES as u32) << 2);
        (&self.places[place], mark & !BY_PEERS | TAKEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_engine::{ContentId, Layout, Naming, RegistryScope};

    #[test]
    fn the_last_giver_is_known_and_that_of_others_is_not() {
        let key = |name| FetchKey {
            id: ContentId::of_name(name),
            scope: RegistryScope::of_origin("https://a"),
            naming: Naming::Digest,
        };
        let layout = Layout::new(1 << 20).unwrap();
        let (first, second) = (layout.block(0).unwrap(), layout.block(1).unwrap());
        let givers = Givers::default();
        assert_eq!(givers.of(&key("a"), first), None);
        givers.note(&key("a"), first, Giver::Peers);
        assert_eq!(givers.of(&key("a"), first), Some(Giver::Peers));
        assert_eq!(givers.of(&key("a"), second), None);
        assert_eq!(givers.of(&key("b"), first), None);
        givers.note(&key("a"), first, Giver::Origin);
        assert_eq!(givers.of(&key("a"), first), Some(Giver::Origin));
    }

    #[test]
    fn what_came_first_is_forgotten_first_and_nothing_grows() {
        let layout = Layout::new(64 << 30).unwrap();
        let key = FetchKey {
            id: ContentId::of_name("a"),
            scope: RegistryScope::of_origin("https://a"),
            naming: Naming::Digest,
        };
        let givers = Givers::default();
        let whole = layout.whole().unwrap();
        whole.blocks().for_each(|block| givers.note(&key, block, Giver::Peers));
        let known = whole.blocks().filter(|block| givers.of(&key, *block).is_some()).count();
        assert_eq!(known, PLACES);
        assert_eq!(givers.of(&key, layout.block(layout.block_count() - 1).unwrap()), Some(Giver::Peers));
    }
}
