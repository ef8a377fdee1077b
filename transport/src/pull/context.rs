//! What all pulls of one shard use.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use darter_engine::{Content, RegistryScope, Scope, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::block_set::BlockSet;
use crate::chance::Chance;
use crate::mesh::Mesh;
use crate::node::{Node, NodeId};
use crate::ownership::owned_by_span;
use crate::shared::Shared;
use crate::span::{Plot, SpanIndex};

/// Streams at one node that may be watches, of the [`STREAMS_MAX`](crate::lane::STREAMS_MAX): the others are for
/// requests.
const WATCHES_PER_NODE: usize = 12;
/// Nodes after which those that are not watched are forgotten.
const NODES_SWEPT: usize = 1024;

const _: () = assert!(WATCHES_PER_NODE < crate::lane::STREAMS_MAX as usize / 2);

pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) mesh: Rc<Mesh>,
    pub(crate) store: Store,
    pub(crate) chance: RefCell<Chance>,
    pub(crate) watches: Watches,
}

impl Context {
    /// Whether each span of a content is owned by itself: as its owner has said, or as it would say, which is good
    /// enough for telling who holds what.
    pub(crate) fn by_span(&self, content: &Content, registry: RegistryScope) -> bool {
        self.shared.routes().by_span(&content.id(), registry).unwrap_or_else(|| {
            let plot =
                Plot { content: content.id(), scope: Scope::Registry(registry), span: SpanIndex::FIRST };
            let owner = self.shared.seeds().owners(&plot, false).map(|(owner, _)| owner.id);
            let seeds = self.shared.seeds().live();
            let slots = seeds.iter().find(|seed| Some(seed.node.id) == owner).map(|seed| seed.capacity_slots);
            slots.is_some_and(|slots| owned_by_span(content.layout(), slots))
        })
    }

    /// Owner and deputy of a plot, without this node: who is told what it holds.
    pub(crate) fn told_of(&self, content: &Content, plot: &Plot) -> impl Iterator<Item = Node> + use<> {
        let own = self.shared.own().id;
        let both = self.owners(content, plot).into_iter().flat_map(|(owner, deputy)| [Some(owner), deputy]);
        both.flatten().filter(move |node| node.id != own)
    }

    /// Whether this node is the one that attests the blocks of a plot.
    pub(crate) fn owns(&self, content: &Content, plot: &Plot) -> bool {
        let own = self.shared.own().id;
        self.owners(content, plot).is_some_and(|(owner, _)| owner.id == own)
    }

    /// Owner and deputy of a plot, as far as this node knows.
    pub(crate) fn owners(&self, content: &Content, plot: &Plot) -> Option<(Node, Option<Node>)> {
        let by_span = match plot.scope {
            Scope::Registry(registry) => self.by_span(content, registry),
            Scope::Verified => false,
        };
        self.shared.seeds().owners(plot, by_span)
    }

    /// What the store holds of a span, for readers under that registry.
    pub(crate) fn held(&self, content: &Content, registry: RegistryScope, span: SpanIndex) -> BlockSet {
        let layout = content.layout();
        let has = |place: &u32| {
            span.block(layout, *place).is_some_and(|block| self.store.has(content, registry, block))
        };
        (0..span.blocks(layout)).filter(has).collect()
    }
}

/// How many watches each node may still be asked for.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    of_nodes: RefCell<HashMap<NodeId, Arc<Semaphore>>>,
}

impl Watches {
    /// One more at that node, until it is dropped; `None` when there are enough.
    pub(super) fn one_more(&self, node: &NodeId) -> Option<OwnedSemaphorePermit> {
        let mut of_nodes = self.of_nodes.borrow_mut();
        if of_nodes.len() >= NODES_SWEPT {
            of_nodes.retain(|_, left| left.available_permits() < WATCHES_PER_NODE);
        }
        let left = of_nodes.entry(*node).or_insert_with(|| Arc::new(Semaphore::new(WATCHES_PER_NODE)));
        left.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_leave_streams_for_requests_and_nodes_are_forgotten() {
        let watches = Watches::default();
        let node = |number: u32| NodeId::from_bytes(blake3::hash(&number.to_le_bytes()).into());
        let held: Vec<_> = (0..WATCHES_PER_NODE).map(|_| watches.one_more(&node(0)).unwrap()).collect();
        assert!(watches.one_more(&node(0)).is_none());
        for number in 1..10 * NODES_SWEPT as u32 {
            assert!(watches.one_more(&node(number)).is_some());
        }
        assert!(watches.of_nodes.borrow().len() <= NODES_SWEPT);
        assert!(watches.one_more(&node(0)).is_none());
        drop(held);
        assert!(watches.one_more(&node(0)).is_some());
    }
}
