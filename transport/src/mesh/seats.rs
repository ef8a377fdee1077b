//! How many connections a shard has, and how many with one node.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::node::NodeId;

/// Connections of one shard, those in their `Hello` with them: as many as there may be nodes.
pub const SESSIONS_MAX: usize = 16_384;
/// Of these with one node: one for each of its shards that has to do with this one, and that of the membership.
pub const SESSIONS_OF_NODE_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: RefCell<HashMap<NodeId, usize>>,
    all: std::cell::Cell<usize>,
}

/// A connection that is counted, until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Rc<Seats>,
    id: NodeId,
}

impl Seats {
    /// `None`: there are as many as may be.
    pub(super) fn take(self: &Rc<Self>, id: NodeId) -> Option<Seat> {
        let mut taken = self.taken.borrow_mut();
        let of_node = taken.get(&id).copied().unwrap_or(0);
        if self.all.get() == SESSIONS_MAX || of_node == SESSIONS_OF_NODE_MAX {
            return None;
        }
        taken.insert(id, of_node + 1);
        self.all.set(self.all.get() + 1);
        Some(Seat { seats: Rc::clone(self), id })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.borrow_mut();
        self.seats.all.set(self.seats.all.get() - 1);
        match taken.get_mut(&self.id) {
            Some(of_node) if *of_node > 1 => *of_node -= 1,
            _ => _ = taken.remove(&self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_leaves_room_for_others_and_all_have_an_end() {
        let seats = Rc::new(Seats::default());
        let id = |number: u16| {
            let [a, b] = number.to_le_bytes();
            let mut id = [0; 32];
            (id[0], id[1]) = (a, b);
            NodeId::from_bytes(id)
        };
        let mut held: Vec<_> = (0..SESSIONS_OF_NODE_MAX).filter_map(|_| seats.take(id(0))).collect();
        assert_eq!(held.len(), SESSIONS_OF_NODE_MAX);
        assert!(seats.take(id(0)).is_none());
        held.extend((1..u16::MAX).map_while(|number| seats.take(id(number))));
        assert_eq!(held.len(), SESSIONS_MAX);
        held.pop();
        assert!(seats.take(id(1)).is_some());
        held.clear();
        assert_eq!((seats.taken.borrow().len(), seats.all.get()), (0, 0));
    }
}
