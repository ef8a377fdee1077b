//! Who may be sent to at the same time. Pure.

use std::collections::HashMap;

use crate::node::NodeId;

/// However it is set: what is sent to so many is sent to nobody in time.
pub const UPLOADS_MAX: u32 = 4096;

/// Places for uploads, of which no node gets all.
///
/// A node may have half of them, and not more than an equal share of those who have any: so a place is free for who comes next,
/// and who has many gets no further one before others have as many.
#[derive(Debug)]
pub(super) struct Places {
    /// 1 to [`UPLOADS_MAX`].
    all: u32,
    taken: u32,
    /// Only those who have some: never more than `taken`.
    of_node: HashMap<NodeId, u32>,
}

impl Places {
    pub(super) fn new(all: u32) -> Self {
        let mut places = Self { all: 1, taken: 0, of_node: HashMap::new() };
        places.set(all);
        places
    }

    pub(super) fn all(&self) -> u32 {
        self.all
    }

    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// Another number; who has a place keeps it.
    pub(super) fn set(&mut self, all: u32) {
        self.all = if all == 0 { UPLOADS_MAX } else { all.min(UPLOADS_MAX) };
    }

    /// Whether the node gets a further place.
    pub(super) fn take(&mut self, node: NodeId) -> bool {
        let has = self.of_node.get(&node).copied().unwrap_or(0);
        let nodes = self.of_node.len() as u32 + u32::from(has == 0);
        let share = self.all.div_ceil(nodes.max(2));
        if self.taken >= self.all || has >= share {
            return false;
        }
        self.of_node.insert(node, has + 1);
        self.taken += 1;
        true
    }

    pub(super) fn give_back(&mut self, node: NodeId) {
        self.taken -= 1;
        match self.of_node.get_mut(&node) {
            Some(has) if *has > 1 => *has -= 1,
            _ => _ = self.of_node.remove(&node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn no_node_takes_all_and_a_later_one_finds_room() {
        let mut places = Places::new(8);
        let count = |places: &mut Places, number| (0..20).filter(|_| places.take(node(number))).count();
        assert_eq!(count(&mut places, 1), 4);
        assert_eq!(count(&mut places, 2), 4);
        assert_eq!(count(&mut places, 3), 0, "all are taken");
        // The first one ends two: they are the third one's, and not its own again.
        (0..2).for_each(|_| places.give_back(node(1)));
        assert_eq!(count(&mut places, 3), 2);
        places.give_back(node(2));
        assert_eq!(count(&mut places, 2), 0, "it has an equal share");
        assert_eq!(count(&mut places, 1), 1);
    }

    #[test]
    fn one_place_is_everybodys() {
        let mut places = Places::new(1);
        assert!(places.take(node(1)) && !places.take(node(2)));
        places.give_back(node(1));
        assert!(places.take(node(2)));
    }

    #[test]
    fn a_new_number_counts_for_who_comes() {
        let mut places = Places::new(4);
        assert!(places.take(node(1)) && places.take(node(1)) && places.take(node(2)));
        places.set(2);
        assert!(!places.take(node(3)));
        places.give_back(node(1));
        places.give_back(node(1));
        assert!(places.take(node(3)));
        places.set(0);
        assert_eq!(places.all(), UPLOADS_MAX);
    }

    proptest! {
        #[test]
        fn places_are_counted(all in 0..12_u32, steps in prop::collection::vec((any::<bool>(), 0..5_u8), 0..200)) {
            let mut places = Places::new(all);
            let mut held: Vec<u8> = Vec::new();
            for (takes, number) in steps {
                if takes {
                    if places.take(node(number)) {
                        held.push(number);
                    }
                } else if let Some(at) = held.iter().position(|holder| *holder == number) {
                    held.swap_remove(at);
                    places.give_back(node(number));
                }
                let of = |number| held.iter().filter(|holder| **holder == number).count() as u32;
                prop_assert_eq!(places.taken as usize, held.len());
                prop_assert!(places.taken <= places.all && places.of_node.values().all(|has| *has > 0));
                prop_assert!((0..5).all(|number| of(number) <= places.all.div_ceil(2)));
            }
        }
    }
}
