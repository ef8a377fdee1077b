//! The seeds of the cluster as this node sees them, shared by all its shards.
//!
//! On a seed it is fed by the [`crate::membership`]; on another node by the [`wire::Seeds`] that seeds tell it. Both
//! end in the one [`Ownership`] that is asked for owners, so a peer and a seed that know the same seeds name the same
//! ones. Sections under the lock are short and never wait for anything.
//!
//! Who wants to know of changes has a [watch](Seeds::changes); [`moves_at`](Seeds::moves_at) says when time alone will
//! make one, and whoever drives this node's joining calls [`settle`](Seeds::settle) then.

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::mesh::Mesh;
use crate::node::{Node, NodeId, Role};
use crate::ownership::{Owners, Ownership};
use crate::session::Session;
use crate::span::Plot;
use crate::wire::{self, List};

/// Packets of the membership that have come to any shard and wait for the one that reads them. More are lost, as they may.
const PACKETS_MAX: usize = 256;
/// Changes within this time are told to other nodes at once.
const TELL_PERIOD: Duration = Duration::from_millis(100);

/// Where this node stands in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has reached no seed yet, and still looks for one. It goes to the origin by itself.
    Joining,
    /// A seed without others: it owns everything.
    Alone,
    /// It knows the seeds.
    Joined,
    /// It goes.
    Leaving,
}

/// The seeds, and who owns what. See the module.
#[derive(Debug)]
pub struct Seeds {
    own: Node,
    capacity_slots: u32,
    role: Role,
    view: Mutex<View>,
    /// How often something has changed.
    changes: watch::Sender<u64>,
    packets: mpsc::Sender<(NodeId, Bytes)>,
}

#[derive(Debug)]
struct View {
    ownership: Ownership,
    standing: Standing,
    /// Until the membership takes it.
    packets: Option<mpsc::Receiver<(NodeId, Bytes)>>,
}

impl Seeds {
    /// Knows nobody yet. `own`: this node as others are told of it; `capacity_slots`: its weight if it is a seed.
    #[must_use]
    pub fn new(own: Node, capacity_slots: u32, role: Role) -> Arc<Self> {
        let (packets, packets_here) = mpsc::channel(PACKETS_MAX);
        let view = Mutex::new(View {
            ownership: Ownership::new(),
            standing: Standing::Joining,
            packets: Some(packets_here),
        });
        Arc::new(Self { own, capacity_slots, role, view, changes: watch::Sender::new(0), packets })
    }

    /// This node.
    #[must_use]
    pub fn own(&self) -> &Node {
        &self.own
    }

    /// Slots of this node's store.
    #[must_use]
    pub fn capacity_slots(&self) -> u32 {
        self.capacity_slots
    }

    /// Whether this node may own, attest and purge.
    #[must_use]
    pub fn is_seed(&self) -> bool {
        self.role == Role::Seed
    }

    /// Where this node stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.view().standing
    }

    /// Owner and deputy of a plot. With `by_span` the span counts, else only the content. `None` while this node knows
    /// no seed: then it goes to the origin by itself.
    #[must_use]
    pub fn owners(&self, plot: &Plot, by_span: bool) -> Option<(Node, Option<Node>)> {
        let view = self.view();
        let Owners { owner, deputy } = view.ownership.of(plot, by_span, Instant::now())?;
        Some((owner.clone(), deputy.cloned()))
    }

    /// A seed, if there is one of this name.
    #[must_use]
    pub fn seed(&self, id: &NodeId) -> Option<Node> {
        self.view()
            .ownership
            .seeds(Instant::now())
            .map(|(node, ..)| node)
            .find(|node| node.id == *id)
            .cloned()
    }

    /// All that hold a place in the order, this node too if it does: what [`wire::Seeds`] tells, and what people see.
    /// A seed that is down is among them until its place moves. At most [`wire::SEEDS_MAX`].
    #[must_use]
    pub fn live(&self) -> Vec<wire::Seed> {
        let view = self.view();
        let seed = |(node, capacity_slots, owns): (&Node, u32, bool)| wire::Seed {
            node: node.clone(),
            capacity_slots,
            owns,
        };
        view.ownership.seeds(Instant::now()).map(seed).collect()
    }

    /// What other nodes are to be told: `None` unless this is a seed that has joined or is alone, for another one
    /// does not know all.
    #[must_use]
    pub fn message(&self) -> Option<wire::Seeds> {
        let tells = self.is_seed() && matches!(self.standing(), Standing::Alone | Standing::Joined);
        tells.then(|| wire::Seeds { seeds: List::first_of(self.live()) })
    }

    /// A seed tells this node who the seeds are; it replaces what was told before. A seed itself believes only the
    /// membership.
    pub fn told(&self, told: &wire::Seeds) {
        if self.is_seed() || told.seeds.is_empty() {
            return;
        }
        let now = Instant::now();
        self.change(|view| {
            let before: Vec<_> = owned(&view.ownership, now);
            for (node, ..) in &before {
                if !told.seeds.iter().any(|seed| seed.node.id == node.id) {
                    view.ownership.left(&node.id);
                }
            }
            for wire::Seed { node, capacity_slots, owns } in told.seeds.iter() {
                view.ownership.up(node.clone(), *capacity_slots, *owns, now);
            }
            if view.standing != Standing::Leaving {
                view.standing = Standing::Joined;
            }
            owned(&view.ownership, now) != before
        });
    }

    /// A seed has said itself that it goes: it is nobody's owner from now on.
    pub fn left(&self, id: &NodeId) {
        self.change(|view| {
            let known = view.ownership.seeds(Instant::now()).any(|(node, ..)| node.id == *id);
            view.ownership.left(id);
            known
        });
    }

    /// Changes of what the other methods say; the number itself means nothing.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// When time alone will change something.
    #[must_use]
    pub fn moves_at(&self) -> Option<Instant> {
        self.view().ownership.moves_at()
    }

    /// Takes up what time has changed.
    pub fn settle(&self) {
        self.change(|view| view.ownership.settle(Instant::now()));
    }

    /// Tells a node who the seeds are, if this one may and knows: when a session begins. Seeds know it by themselves.
    pub fn tell(&self, session: &Session) {
        if session.role() == Role::Peer
            && let Some(seeds) = self.message()
            && !session.tell(seeds)
        {
            tracing::debug!(node = %session.node().id, "a node could not be told of the seeds");
        }
    }

    /// This node is about to go: [`take_part`](crate::membership::take_part) tells the other seeds, and ends.
    pub fn leave(&self) {
        self.stands(Standing::Leaving);
    }

    /// A packet of the membership, on whichever shard it came. Lost when too many wait.
    pub(crate) fn gossip(&self, from: NodeId, packet: Bytes) {
        // Full, or nobody reads: it is as if the network had lost it.
        let _ = self.packets.try_send((from, packet));
    }

    /// The packets that come; the first time.
    pub(crate) fn take_packets(&self) -> Option<mpsc::Receiver<(NodeId, Bytes)>> {
        self.view().packets.take()
    }

    /// A seed is up, or is another one than before; this node too.
    pub(crate) fn up(&self, seed: wire::Seed) {
        let now = Instant::now();
        self.change(|view| view.ownership.up(seed.node, seed.capacity_slots, seed.owns, now));
    }

    /// A seed does not answer.
    pub(crate) fn down(&self, id: &NodeId) {
        let now = Instant::now();
        self.change(|view| {
            view.ownership.down(id, now);
            true
        });
    }

    /// This node stands elsewhere now.
    pub(crate) fn stands(&self, standing: Standing) {
        // Who goes does not come back.
        self.change(|view| {
            view.standing != Standing::Leaving && std::mem::replace(&mut view.standing, standing) != standing
        });
    }

    /// Changes the view, and says so if `change` says that it has.
    fn change(&self, change: impl FnOnce(&mut View) -> bool) {
        if change(&mut self.view()) {
            self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the nodes of one shard who the seeds are each time that it changes. Runs on each shard of a seed, until dropped.
pub async fn tell_changes(mesh: Rc<Mesh>, seeds: Arc<Seeds>) {
    let mut changes = seeds.changes();
    // Fails when the seeds are gone, of which this holds one.
    while changes.changed().await.is_ok() {
        sleep(TELL_PERIOD).await;
        changes.mark_unchanged();
        mesh.sessions().iter().for_each(|session| seeds.tell(session));
    }
}

fn owned(ownership: &Ownership, now: Instant) -> Vec<(Node, u32, bool)> {
    ownership.seeds(now).map(|(node, slots, owns)| (node.clone(), slots, owns)).collect()
}
