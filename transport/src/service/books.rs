//! What a node's shards know together in order to answer: the map of who holds what, digests, who waits for what, and
//! what was found out once for all. Locks are held for a few microseconds and never while something is waited for.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use darter_engine::{BlockRun, ContentId, RegistryScope, Scope};
use tokio::sync::{Semaphore, broadcast};

use super::board::{Board, Boards};
use super::boots::Boots;
use super::handover::Handovers;
use super::proofs::Proofs;
use super::spread::{PREHEATS_MAX, SPREADS_MAX};
use super::uploads::Uploads;
use super::wrong::WrongContents;
use crate::attestations::Attestations;
use crate::block_set::BlockSet;
use crate::chance::Chance;
use crate::limits::Limits;
use crate::node::{Node, NodeId};
use crate::seeds::Seeds;
use crate::span::{Plot, spans};
use crate::tracker::Tracker;
use crate::wire::{BlockDigest, Load, Purge};

/// Purges that a shard may be behind with; more than that it does not pass on.
const PURGES_AHEAD: usize = 64;

/// What the shards of a node share.
#[derive(Debug)]
pub struct Books {
    pub(super) seeds: Arc<Seeds>,
    map: Mutex<Map>,
    attestations: Attestations,
    pub(super) boards: Boards,
    wrong: WrongContents,
    pub(super) proofs: Arc<Proofs>,
    pub(super) boots: Boots,
    pub(super) handovers: Arc<Handovers>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) spreads: Semaphore,
    pub(super) preheats: Semaphore,
    purges: broadcast::Sender<Sent>,
    is_leaving: AtomicBool,
}

/// The map, with what it is used with.
#[derive(Debug)]
pub struct Map {
    /// Who holds what.
    pub tracker: Tracker,
    /// For its choices.
    pub chance: Chance,
    /// Of each node that is connected, with how many sessions of all shards.
    sessions: HashMap<NodeId, (Node, usize)>,
}

/// A purge, and who is to be told.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) purge: Purge,
    pub(super) to: Arc<BTreeSet<NodeId>>,
}

impl Books {
    /// Of a node that knows its cluster by `seeds`. `chance_seed` is what its choices begin with.
    pub fn new(seeds: Arc<Seeds>, chance_seed: u64) -> Arc<Self> {
        let (tracker, chance) = (Tracker::new(), Chance::seeded(chance_seed));
        Arc::new(Self {
            seeds,
            map: Mutex::new(Map { tracker, chance, sessions: HashMap::new() }),
            attestations: Attestations::new(),
            boards: Boards::default(),
            wrong: WrongContents::default(),
            proofs: Arc::default(),
            boots: Boots::default(),
            handovers: Arc::default(),
            uploads: Arc::default(),
            spreads: Semaphore::new(SPREADS_MAX),
            preheats: Semaphore::new(PREHEATS_MAX),
            purges: broadcast::Sender::new(PURGES_AHEAD),
            is_leaving: AtomicBool::new(false),
        })
    }

    /// The seeds of the cluster.
    pub fn seeds(&self) -> &Arc<Seeds> {
        &self.seeds
    }

    /// The map, for a moment.
    pub fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digests that seeds attest. What comes from elsewhere is noted with [`attest`](Self::attest).
    pub fn attestations(&self) -> &Attestations {
        &self.attestations
    }

    /// A seed, or this one, attests these digests of the blocks from `first` on: who watches is told.
    pub fn attest(&self, plot: &Plot, first: u32, digests: &[BlockDigest]) {
        if self.attestations.attest(plot, first, digests)
            && let Some(board) = self.boards.find(plot)
        {
            board.changed();
        }
    }

    /// Blocks are in the store now, wherever they came from: who waits for them here is woken.
    pub fn stored(&self, content: &ContentId, registry: RegistryScope, run: BlockRun) {
        self.each_board(content, registry, run, Board::stored);
    }

    /// Blocks were found gone.
    pub fn lost(&self, content: &ContentId, registry: RegistryScope, run: BlockRun) {
        self.each_board(content, registry, run, Board::lost);
    }

    fn each_board(
        &self,
        content: &ContentId,
        registry: RegistryScope,
        run: BlockRun,
        tell: fn(&Board, &BlockSet),
    ) {
        for (span, places) in spans(run) {
            let plot = Plot { content: *content, scope: Scope::Registry(registry), span };
            if let Some(board) = self.boards.find(&plot) {
                tell(&board, &places);
            }
        }
    }

    /// The bytes of a content are wrong: for a minute it is refused, and nothing of it is known. Who had registered
    /// blocks of it.
    pub(super) fn forget_wrong(&self, content: ContentId, scope: Scope) -> BTreeSet<NodeId> {
        self.wrong.note(content, scope, Instant::now());
        let mut map = self.map();
        let members = map.tracker.members_of(&content, scope);
        map.tracker.purge(&content, scope);
        drop(map);
        self.attestations.forget(&content, scope);
        self.boards.clear(&content, scope);
        members
    }

    /// This seed, which owns the content, has found out that its bytes are wrong: everyone who registered blocks of it
    /// is told, and the other seeds. False if this node is no seed, and so is not believed.
    pub fn purge(&self, content: ContentId, scope: Scope) -> bool {
        if !self.seeds.is_seed() {
            return false;
        }
        let mut to = self.forget_wrong(content, scope);
        to.extend(self.seeds.live().iter().map(|seed| seed.node.id));
        to.remove(&self.seeds.own().id);
        // Without a shard there is nobody to tell.
        let _ = self.purges.send(Sent { purge: Purge { content, scope }, to: Arc::new(to) });
        true
    }

    /// Whether the bytes of a content turned out to be wrong within the last minute.
    pub fn is_wrong(&self, content: &ContentId, scope: Scope) -> bool {
        self.wrong.is_wrong(content, scope, Instant::now())
    }

    pub(super) fn purges(&self) -> broadcast::Receiver<Sent> {
        self.purges.subscribe()
    }

    /// How much may be sent and taken, for this crate and for whoever changes it.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.uploads.limits
    }

    /// How busy this node is with sending.
    pub fn load(&self) -> Load {
        self.uploads.load()
    }

    /// From now on nothing new is answered.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// The nodes with which there is a session on any shard, in no order.
    pub(super) fn nodes(&self) -> Vec<Node> {
        self.map().sessions.values().map(|(node, _)| node.clone()).collect()
    }

    /// A session with a node has begun on one of the shards.
    pub(super) fn up(&self, node: &Node) {
        let mut map = self.map();
        let (known, sessions) = map.sessions.entry(node.id).or_insert_with(|| (node.clone(), 0));
        known.clone_from(node);
        *sessions += 1;
        if *sessions == 1 {
            map.tracker.meet(node.clone());
        }
    }

    /// A session has ended. With the last one of all shards the node is gone, and what it held.
    pub(super) fn down(&self, id: &NodeId) {
        let mut map = self.map();
        let Some((_, sessions)) = map.sessions.get_mut(id) else { return };
        *sessions -= 1;
        if *sessions == 0 {
            map.sessions.remove(id);
            map.tracker.part(id);
        }
    }
}
