//! How far the nodes are that are to have one content: what is known of each, and what whoever asked has not been told yet.
//!
//! Pure. Each node is in exactly one [`ReachState`], and leaves `Coming` once.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::{Node, NodeId};
use crate::wire::{List, REACHES_MAX, Reach, ReachState, Reached, Refused, Text};

/// The nodes of one [`Spread`](crate::wire::Spread).
#[derive(Debug)]
pub(super) struct Reaching {
    nodes: BTreeMap<NodeId, Reach>,
    /// To be told.
    changed: BTreeSet<NodeId>,
    coming: usize,
}

impl Reaching {
    /// All of these are to have it.
    pub(super) fn of(nodes: impl IntoIterator<Item = Node>) -> Self {
        let reach = |node: Node| {
            let reach =
                Reach { node, state: ReachState::Coming, held_bytes: 0, code: 0, detail: Text::default() };
            (reach.node.id, reach)
        };
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(reach).collect();
        Self { changed: nodes.keys().copied().collect(), coming: nodes.len(), nodes }
    }

    /// The nodes, in the order of their ids.
    pub(super) fn nodes(&self) -> Vec<Node> {
        self.nodes.values().map(|reach| reach.node.clone()).collect()
    }

    /// A node says what it holds.
    pub(super) fn holds(&mut self, id: &NodeId, held_bytes: u64) {
        let Some(reach) = self.nodes.get_mut(id).filter(|reach| reach.state == ReachState::Coming) else {
            return;
        };
        if reach.held_bytes != held_bytes {
            reach.held_bytes = held_bytes;
            self.changed.insert(*id);
        }
    }

    /// A node has all, or does not get it.
    pub(super) fn ended(&mut self, id: &NodeId, how: Result<(), Refused>) {
        let Some(reach) = self.nodes.get_mut(id).filter(|reach| reach.state == ReachState::Coming) else {
            return;
        };
        reach.state = match how {
            Ok(()) => ReachState::Whole,
            Err(refused) => {
                (reach.code, reach.detail) = (refused.code, Text::cut(&refused.detail));
                ReachState::Failed
            }
        };
        self.coming -= 1;
        self.changed.insert(*id);
    }

    /// Whether no node is left that may still get it.
    pub(super) fn is_over(&self) -> bool {
        self.coming == 0
    }

    /// What has changed since the last time, [`REACHES_MAX`] nodes of it; `None` when all is told.
    pub(super) fn news(&mut self) -> Option<Reached> {
        let told: Vec<_> = self.changed.iter().take(REACHES_MAX).copied().collect();
        if told.is_empty() {
            return None;
        }
        let nodes = told.iter().filter_map(|id| {
            self.changed.remove(id);
            self.nodes.get(id).cloned()
        });
        Some(Reached { nodes: List::first_of(nodes.collect::<Vec<_>>()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Code;

    fn node(number: u16) -> Node {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        Node { id: NodeId::from_bytes(id), address: ([10, 0, 0, 1], 65000).into(), zone: Text::cut("a") }
    }

    fn told(reaching: &mut Reaching) -> Vec<(NodeId, ReachState, u64)> {
        let news = std::iter::from_fn(|| reaching.news());
        let all: Vec<_> = news.flat_map(|news| news.nodes.iter().cloned().collect::<Vec<_>>()).collect();
        all.into_iter().map(|reach| (reach.node.id, reach.state, reach.held_bytes)).collect()
    }

    #[test]
    fn all_are_named_first_and_then_what_changes() {
        let mut reaching = Reaching::of((0..600).map(node));
        let first = reaching.news().unwrap();
        assert_eq!(first.nodes.len(), REACHES_MAX);
        assert_eq!(told(&mut reaching).len(), 600 - REACHES_MAX);
        assert_eq!(reaching.news(), None);
        let [a, b] = [node(1).id, node(2).id];
        reaching.holds(&a, 7);
        reaching.holds(&a, 7);
        reaching.holds(&b, 0);
        assert_eq!(told(&mut reaching), [(a, ReachState::Coming, 7)]);
    }

    #[test]
    fn what_has_ended_stays_so() {
        let (mut reaching, [a, b]) = (Reaching::of([node(1), node(2)]), [node(1).id, node(2).id]);
        reaching.holds(&a, 5);
        reaching.ended(&a, Ok(()));
        reaching.ended(&b, Err(Refused::of(Code::Unkept, &"no room ".repeat(30))));
        assert!(reaching.is_over());
        // What another task says late changes nothing, and neither does who was never to have it.
        reaching.ended(&a, Err(Refused::of(Code::Leaving, "")));
        reaching.ended(&node(3).id, Ok(()));
        reaching.holds(&a, 1);
        let all = reaching.news().unwrap();
        let reaches: Vec<_> = all.nodes.iter().cloned().collect();
        assert_eq!((reaches[0].state, reaches[0].held_bytes, reaches[0].code), (ReachState::Whole, 5, 0));
        assert_eq!((reaches[1].state, reaches[1].code), (ReachState::Failed, Code::Unkept.number()));
        assert_eq!(reaches[1].detail.len(), 127);
        assert_eq!(reaching.news(), None);
    }
}
