//! The cluster as the daemon sees it: one [`Shared`] of the node, one [`Cluster`] of each shard.
//!
//! ```text
//!  daemon ──▶ Cluster ── describe, prove,
//!                │       recall, booted ───▶ asking      one question to an owner
//!                │ ────── pull, hurry ─────▶ pull        blocks from owner and parents
//!                │ ────── stored, lost ────▶ announce    who holds what
//!                │                           service     what this node answers
//!                └──────────────────────── ▶ mesh        sessions of this shard, for all of them
//! ```
//!
//! A node without a cluster is its own seed: it owns everything, so that all is [`Pulled::GoToOrigin`].

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use darter_engine::{BlockIndex, BlockRun, Content, ContentId, HashedBlock, RegistryScope, Scope, Store};
use tokio::sync::{mpsc, watch};

use crate::announce::Announcer;
use crate::asking::{self, Asked};
use crate::boot_list::BootList;
use crate::chance::Chance;
use crate::exchange::Exchange;
use crate::lane::Endpoint;
use crate::membership;
use crate::mesh::{Introduction, Mesh, Service};
use crate::node::{NodeId, Role};
use crate::pull::{Context, Pulled, Pulls, Wanted, Watches};
use crate::service::{Origin, Server};
use crate::session::Session;
pub use crate::shared::{Counted, Counters, Shared};
use crate::span::{Plot, SpanIndex, spans};
use crate::spreading;
pub use crate::spreading::Spreading;
use crate::wire::{Booted, Describe, Description, Message, Preheat, Proof, Prove, Recall, Refused, Spread};

/// What one shard's part is made of.
pub struct Parts {
    /// The shard's sockets.
    pub endpoint: Endpoint,
    /// What the node says of itself; the same on all shards.
    pub introduction: Introduction,
    /// The store of the node.
    pub store: Store,
    /// The daemon's way to the origin, on this shard.
    pub origin: Rc<dyn Origin>,
    /// What the shard's choices begin with.
    pub chance_seed: u64,
    /// Where seeds may be, looked up again and again by whoever sends here. Used by the first shard that starts.
    pub found: watch::Receiver<Vec<SocketAddr>>,
}

/// One shard's part in the cluster.
pub struct Cluster {
    context: Rc<Context>,
    server: Rc<Server>,
    pulls: Rc<Pulls>,
    announcer: Rc<Announcer>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("own", self.context.shared.own()).finish_non_exhaustive()
    }
}

/// What others say, to who deals with it.
struct Front {
    shared: Arc<Shared>,
    server: Rc<Server>,
    cluster: OnceCell<Weak<Cluster>>,
}

impl Cluster {
    /// Begins to answer and to ask. To be called on the shard's runtime, inside a `LocalSet`.
    pub fn start(shared: Arc<Shared>, parts: Parts) -> Rc<Self> {
        let Parts { endpoint, introduction, store, origin, chance_seed, found } = parts;
        let server = Server::new(shared.books().clone(), store.clone(), origin);
        let front =
            Rc::new(Front { shared: shared.clone(), server: server.clone(), cluster: OnceCell::new() });
        let mesh = Mesh::start(endpoint, introduction, front.clone());
        server.begin(&mesh);
        let (chance, watches) = (Chance::seeded(chance_seed).into(), Watches::default());
        let context = Rc::new(Context { shared, mesh, store, chance, watches });
        let (pulls, announcer) =
            (Pulls::new(context.clone(), server.clone()), Announcer::new(context.clone()));
        let cluster = Rc::new(Self { context, server, pulls, announcer });
        // Set once, here.
        let _ = front.cluster.set(Rc::downgrade(&cluster));
        let lost = Rc::downgrade(&cluster);
        cluster.server.on_lost(Rc::new(move |content, registry, run| {
            if let Some(cluster) = lost.upgrade() {
                cluster.lost(content, registry, run);
            }
        }));
        if cluster.shared().leads() {
            tokio::task::spawn_local(Self::follow_the_seeds(Rc::downgrade(&cluster)));
            let seeds = cluster.shared().seeds().clone();
            tokio::task::spawn_local(membership::take_part(cluster.mesh().clone(), seeds, found));
        }
        tokio::task::spawn_local(Self::tell_of_the_seeds(Rc::downgrade(&cluster)));
        cluster
    }

    /// What the shards share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.context.shared
    }

    /// The sessions of this shard.
    pub fn mesh(&self) -> &Rc<Mesh> {
        &self.context.mesh
    }

    /// What is this content? Asked of its owner. `None`: this node is the owner, or the cluster cannot say: ask the
    /// origin.
    pub async fn describe(&self, ask: Describe) -> Option<Result<Description, Refused>> {
        let (content, registry) = (ask.content, ask.registry);
        let plot = Plot { content, scope: Scope::Registry(registry), span: SpanIndex::FIRST };
        match asking::ask_owner(&self.context, &plot, ask).await {
            Asked::Answered(Message::Description(described)) => {
                self.context.shared.routes().note(&content, registry, described.by_span);
                Some(Ok(described))
            }
            Asked::Refused(refused) => Some(Err(refused)),
            Asked::Answered(_) | Asked::Nobody => None,
        }
    }

    /// Blocks of a content from the cluster, each checked against its attested digest, in any order. Of a bulk, what
    /// the store has is left out, and nothing is said of it; else blocks that it has are brought again. Whoever drops the
    /// receiver wants them no longer; what it does not take stays with its sender. Never fails: when too much goes on, and
    /// when this node is the owner and nobody else has them, [`Pulled::GoToOrigin`] is said of all.
    pub fn pull(&self, wanted: Wanted) -> mpsc::Receiver<Pulled> {
        self.pulls.pull(wanted)
    }

    /// Which other node owns a content, as far as this one knows now: for people to look at. `None` where there is no seed,
    /// and where it is this one.
    pub fn owner_of(&self, content: ContentId) -> Option<NodeId> {
        let (owner, _) = self.shared().seeds().owners(&Self::first_plot(content), false)?;
        Some(owner.id).filter(|id| *id != self.shared().own().id)
    }

    /// The same of a block of a content, which may be another node's than the content.
    pub fn owner_of_block(
        &self,
        content: &Content,
        registry: RegistryScope,
        block: BlockIndex,
    ) -> Option<NodeId> {
        let (scope, span) = (Scope::Registry(registry), SpanIndex::of(block));
        let plot = Plot { content: content.id(), scope, span };
        let (owner, _) = self.context.owners(content, &plot)?;
        Some(owner.id).filter(|id| *id != self.shared().own().id)
    }

    /// Somebody waits for blocks that a bulk brings on this shard: they come before the others, to the same receiver.
    pub fn hurry(&self, content: &Content, registry: RegistryScope, run: BlockRun) {
        self.pulls.hurry(content, registry, run);
    }

    /// These blocks have come and are on their way to the store; `first` is that of `blocks[0]`. While other nodes are connected,
    /// what this node owns of them is attested now: when they ask for it, it would have to be read again, and they would wait.
    pub fn came(
        &self,
        content: &Content,
        registry: RegistryScope,
        first: BlockIndex,
        blocks: &[HashedBlock],
    ) {
        let shared = &self.context.shared;
        // Nothing is attested of bytes that were wrong, perhaps.
        if !shared.peers().has_company() || content.is_gone() {
            return;
        }
        let run = content.layout().run(first.number(), first.number().saturating_add(blocks.len() as u32));
        let books = shared.books();
        for (span, places) in run.into_iter().flat_map(spans) {
            let plot = Plot { content: content.id(), scope: Scope::Registry(registry), span };
            if !self.context.owns(content, &plot) {
                continue;
            }
            for place in places.minus(&books.attestations().known(&plot)).places() {
                let block = span.block(content.layout(), place);
                let hashed = block.and_then(|block| blocks.get((block.number() - first.number()) as usize));
                hashed.inspect(|hashed| books.attest(&plot, place, &[*hashed.blake3()]));
            }
        }
    }

    /// These blocks are in the store now, wherever they came from: others are told. `registry` is whose bytes they are.
    /// Does not wait.
    pub fn stored(&self, content: &Arc<Content>, registry: RegistryScope, run: BlockRun) {
        self.context.shared.books().stored(&content.id(), registry, run);
        for (span, places) in spans(run) {
            let plot = Plot { content: content.id(), scope: Scope::Registry(registry), span };
            self.announcer.stored(content, &plot, places);
        }
    }

    /// These blocks were found gone. Does not wait.
    pub fn lost(&self, content: &Arc<Content>, registry: RegistryScope, run: BlockRun) {
        self.context.shared.books().lost(&content.id(), registry, run);
        for (span, places) in spans(run) {
            let plot = Plot { content: content.id(), scope: Scope::Registry(registry), span };
            self.announcer.lost(content, &plot, places);
        }
    }

    /// May this client read this? Asked of the owner. `None`: this node is the owner, or the cluster cannot say: ask
    /// the registry.
    pub async fn prove(&self, ask: Prove) -> Option<Result<Proof, Refused>> {
        let plot = Self::first_plot(ask.content);
        match asking::ask_owner(&self.context, &plot, ask).await {
            Asked::Answered(Message::Proof(proof)) => Some(Ok(proof)),
            Asked::Refused(refused) => Some(Err(refused)),
            Asked::Answered(_) | Asked::Nobody => None,
        }
    }

    /// How a boot reads this content: asked of its owner. Empty where nobody has said, or nobody can be asked.
    pub async fn recall(&self, content: ContentId) -> BootList {
        match asking::ask_owner(&self.context, &Self::first_plot(content), Recall { content }).await {
            Asked::Answered(Message::BootOrder(order)) => order.runs,
            Asked::Nobody => self.context.shared.books().recall(&content),
            Asked::Answered(_) | Asked::Refused(_) => BootList::default(),
        }
    }

    /// A boot has read this content here, in this order: its owner is told. Where nobody can be told, this node knows
    /// it.
    pub async fn booted(&self, content: ContentId, runs: BootList) {
        let told = Booted { content, runs: runs.clone() };
        if let Asked::Nobody = asking::ask_owner(&self.context, &Self::first_plot(content), told).await {
            self.context.shared.books().booted(content, runs);
        }
    }

    /// Of a content alone, whatever the registry: whose plot it is does not matter for who owns it.
    fn first_plot(content: ContentId) -> Plot {
        Plot { content, scope: Scope::Verified, span: SpanIndex::FIRST }
    }

    /// Has every seed tell the nodes that it is connected with to take all of a content, and says how far that is, until all
    /// seeds have ended. A node that two seeds know is named by both. Who drops the receiver ends it.
    pub fn spread(&self, ask: Spread, to: mpsc::Sender<Spreading>) {
        spreading::begin(&self.context, &self.server, ask, to);
    }

    /// The bytes of this content are not those of its name, this node has found out: if it is a seed, all nodes drop
    /// them. Does not wait.
    pub fn wrong(&self, content: ContentId, scope: Scope) {
        self.context.shared.books().purge(content, scope);
    }

    /// Tells all that this node goes, answers what is being asked, and closes what is open.
    pub async fn leave(&self) {
        self.context.shared.books().leave();
        self.context.shared.seeds().leave();
        self.context.mesh.leave().await;
    }

    /// What was told to one seed is to be told to another one when the plots move.
    async fn follow_the_seeds(cluster: Weak<Self>) {
        let Some(mut changes) = cluster.upgrade().map(|cluster| cluster.shared().seeds().changes()) else {
            return;
        };
        while changes.changed().await.is_ok() {
            let Some(cluster) = cluster.upgrade() else { return };
            cluster.announcer.seeds_changed();
        }
    }
}

impl Cluster {
    /// Tells the nodes that are connected to this shard who the seeds are, each time that changes.
    async fn tell_of_the_seeds(cluster: Weak<Self>) {
        let Some(mut changes) = cluster.upgrade().map(|cluster| cluster.shared().seeds().changes()) else {
            return;
        };
        while changes.changed().await.is_ok() {
            let Some(cluster) = cluster.upgrade() else { return };
            let seeds = cluster.shared().seeds();
            cluster.mesh().sessions().iter().for_each(|session| seeds.tell(session));
        }
    }
}

impl Service for Front {
    fn up(&self, session: &Rc<Session>) {
        self.shared.peers().up(session);
        self.server.up(session);
        self.shared.seeds().tell(session);
        if session.role() == Role::Seed
            && let Some(cluster) = self.cluster.get().and_then(Weak::upgrade)
        {
            cluster.announcer.tell_anew(session.node());
        }
    }

    fn down(&self, session: &Rc<Session>) {
        self.server.down(session);
        self.shared.peers().down(session);
    }

    fn told(&self, session: &Rc<Session>, message: Message) {
        if let Message::Leaving(_) = message {
            self.shared.peers().leaves(&session.node().id);
        }
        self.server.told(session, message);
    }

    fn asked(&self, session: &Rc<Session>, request: Message, exchange: Exchange) {
        match request {
            Message::Gossip(first) => {
                let seeds = self.server.books().seeds().clone();
                tokio::task::spawn_local(membership::listen(seeds, first, exchange));
            }
            request => {
                if let Message::Preheat(Preheat { content, registry, by_span, .. }) = &request
                    && session.role() == Role::Seed
                {
                    self.shared.routes().note(content, *registry, *by_span);
                }
                self.server.asked(session, request, exchange);
            }
        }
    }
}
