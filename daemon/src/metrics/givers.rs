//! Who brought the blocks that came last: whose bytes a reader sends that it has waited for, although it reads them
//! out of the store.
//!
//! A table of one word for each of so many blocks, in which a later block takes the place of an earlier one. Who has
//! waited for a block asks for it moments later; what has been pushed out meanwhile counts as the origin's, so that
//! other nodes are never praised for what they have not given.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use darter_engine::BlockIndex;

use crate::fetch::FetchKey;

/// Places for blocks, a power of two: as many as 1 GiB has; 128 KiB.
const PLACES: usize = 1 << 14;
/// Of a word: it is taken.
const TAKEN: u64 = 1;
/// Of a word: other nodes gave the block.
const BY_PEERS: u64 = 2;

/// From where a block has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Giver {
    Peers,
    Origin,
}

/// Of one node.
#[derive(Debug)]
pub(crate) struct Givers {
    places: Box<[AtomicU64]>,
    /// Not to be foreseen by who chooses names of contents.
    hashing: RandomState,
}

impl Default for Givers {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), hashing: RandomState::new() }
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

    fn place(&self, key: &FetchKey, block: BlockIndex) -> (&AtomicU64, u64) {
        let hash = self.hashing.hash_one((key, block.number()));
        // The place by the upper bits, the mark by all that the word has room for.
        let place = (hash >> (64 - PLACES.trailing_zeros())) as usize;
        (&self.places[place], hash & !BY_PEERS | TAKEN)
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
        assert!(known > PLACES / 2 && known <= PLACES, "{known}");
        assert_eq!(givers.of(&key, layout.block(layout.block_count() - 1).unwrap()), Some(Giver::Peers));
    }
}
