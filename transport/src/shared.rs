//! What the shards of a node share of the cluster.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::download::{Arrival, Source};
use crate::node::{Node, NodeId};
use crate::peers::Peers;
use crate::pull::Routes;
use crate::seeds::Seeds;
use crate::service::Books;
use crate::span::Plot;

/// One of a node, for all shards.
#[derive(Debug)]
pub struct Shared {
    books: Arc<Books>,
    routes: Routes,
    counters: Counters,
    peers: Peers,
    told: Told,
    has_leader: AtomicBool,
}

impl Shared {
    /// Of a node that knows its cluster by `seeds`. `chance_seed` is what the node's choices begin with.
    #[must_use]
    pub fn new(seeds: Arc<Seeds>, chance_seed: u64) -> Arc<Self> {
        let books = Books::new(seeds, chance_seed);
        Arc::new(Self {
            books,
            routes: Routes::default(),
            counters: Counters::default(),
            peers: Peers::default(),
            told: Told::default(),
            has_leader: AtomicBool::new(false),
        })
    }

    /// This node.
    #[must_use]
    pub fn own(&self) -> &Node {
        self.books.seeds().own()
    }

    /// The seeds of the cluster.
    #[must_use]
    pub fn seeds(&self) -> &Arc<Seeds> {
        self.books.seeds()
    }

    /// What this node answers from.
    #[must_use]
    pub fn books(&self) -> &Arc<Books> {
        &self.books
    }

    /// What owners have said of contents.
    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Whom this node has told what it holds.
    pub(crate) fn told(&self) -> &Told {
        &self.told
    }

    /// True for the first shard that asks: it does what one of them has to do.
    pub(crate) fn leads(&self) -> bool {
        !self.has_leader.swap(true, Ordering::Relaxed)
    }

    /// What has come from others.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Who is connected, and what moves.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }
}

/// Plots of which it is remembered who was told: 1 TiB and more of contents.
const PLOTS_TOLD_MAX: usize = 65_536;
/// The sessions of a node's shards with a seed's come up together: everything is told once.
const COME_UP_TOGETHER: Duration = Duration::from_secs(2);

/// Whom this node has told what it holds.
#[derive(Debug, Default)]
pub(crate) struct Told {
    plots: Mutex<HashMap<Plot, [Option<NodeId>; 2]>>,
    anew: Mutex<HashMap<NodeId, Instant>>,
}

impl Told {
    /// These are told of the plot from now on; who was before.
    pub(crate) fn note(&self, plot: &Plot, to: [Option<NodeId>; 2]) -> Option<[Option<NodeId>; 2]> {
        let mut plots = self.plots.lock().unwrap_or_else(PoisonError::into_inner);
        if plots.len() >= PLOTS_TOLD_MAX {
            plots.clear();
        }
        plots.insert(*plot, to)
    }

    /// Whether a session with a seed that has come up is the first one after a while.
    pub(crate) fn is_to_be_told_anew(&self, seed: &NodeId) -> bool {
        let mut anew = self.anew.lock().unwrap_or_else(PoisonError::into_inner);
        anew.retain(|_, told| told.elapsed() < COME_UP_TOGETHER);
        if anew.contains_key(seed) {
            return false;
        }
        anew.insert(*seed, Instant::now());
        true
    }
}

/// What pulls have brought since the start, and what they are at.
#[derive(Debug, Default)]
pub struct Counters {
    from_owner_bytes: AtomicU64,
    from_parents_bytes: AtomicU64,
    late_bytes: AtomicU64,
    wrong_blocks: AtomicU64,
    left_to_origin_blocks: AtomicU64,
    requests_now: AtomicU64,
}

/// A request for blocks under way, for as long as it lives.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The [`Counters`] at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Right bytes that owners and deputies have sent.
    pub from_owner_bytes: u64,
    /// Right bytes that parents have sent.
    pub from_parents_bytes: u64,
    /// Of what came, bytes that were here already.
    pub late_bytes: u64,
    /// Blocks without the attested digest.
    pub wrong_blocks: u64,
    /// Blocks that were wanted of the cluster and that this node was sent to the origin for; each time that one was.
    pub left_to_origin_blocks: u64,
    /// Requests for blocks to other nodes that are under way.
    pub requests_now: u64,
}

impl Counters {
    /// All of them now.
    #[must_use]
    pub fn now(&self) -> Counted {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            from_owner_bytes: of(&self.from_owner_bytes),
            from_parents_bytes: of(&self.from_parents_bytes),
            late_bytes: of(&self.late_bytes),
            wrong_blocks: of(&self.wrong_blocks),
            left_to_origin_blocks: of(&self.left_to_origin_blocks),
            requests_now: of(&self.requests_now),
        }
    }

    /// A request for blocks begins.
    pub(crate) fn request_begins(&self) -> UnderWay<'_> {
        self.requests_now.fetch_add(1, Ordering::Relaxed);
        UnderWay(&self.requests_now)
    }

    pub(crate) fn received(&self, source: &Source, arrival: Arrival, bytes: usize) {
        let (counter, more) = match (arrival, source) {
            (Arrival::Wrong, _) => (&self.wrong_blocks, 1),
            (Arrival::Late, _) => (&self.late_bytes, bytes as u64),
            (Arrival::Keep, Source::Owner) => (&self.from_owner_bytes, bytes as u64),
            (Arrival::Keep, Source::Parent(_)) => (&self.from_parents_bytes, bytes as u64),
        };
        counter.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn left_to_origin(&self, blocks: u32) {
        self.left_to_origin_blocks.fetch_add(blocks.into(), Ordering::Relaxed);
    }
}
