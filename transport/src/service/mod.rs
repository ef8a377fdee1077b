//! Everything that a node answers: as a parent, as the owner of a plot, and as the deputy who stands by.
//!
//! ```text
//!              asked                                  board      who waits for what of a plot
//!  exchange ──────────▶ parent    Take, Watch    ──▶  books      the map, digests, what was found out
//!              told     owner     Want, Describe…     origin     what the daemon lends: the way out
//!  session  ──────────▶ deputy    stands in
//! ```
//!
//! [`Books`] are what the shards of a node share; a [`Server`] is one shard's part and `!Send`. Each request is a task
//! of its shard. All that a node asks others to remember for it is bounded, and who sends what makes no sense is
//! refused.
//!
//! Not here: what a node asks of others for its own clients, and when it tells what it holds.

mod board;
mod books;
mod boots;
mod bringing;
mod complaint;
mod deputy;
mod digests;
mod handover;
mod origin;
mod owner;
mod parent;
mod proofs;
mod prove;
mod reaching;
mod refusal;
mod spread;
#[cfg(test)]
mod tests;
mod uploads;
mod wrong;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use darter_engine::{BlockRun, Content, RegistryScope, Scope, Store, Verification};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use self::board::Board;
use self::books::Sent;
pub use self::books::{Books, Map};
use self::complaint::Checks;
use self::deputy::Reach;
pub use self::handover::MAP_WITHIN;
pub use self::origin::{Bring, LocalBoxFuture, Origin};
use self::refusal::{Stop, because, busy, not_owner};
use crate::block_set::BlockSet;
use crate::exchange::Exchange;
use crate::mesh::{Mesh, Service};
use crate::node::{Node, NodeId, Role};
use crate::session::Session;
use crate::span::Plot;
use crate::wire::{BootOrder, Code, End, Message, Purge};

/// Requests that a shard answers at a time.
const ANSWERS_MAX: usize = 8192;
/// How often a node whose control stream is full is told of a purge again, and after how long.
const PURGE_TRIES: usize = 20;
const PURGE_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

/// Who is told of blocks that were found gone.
pub type TellLost = Rc<dyn Fn(&Arc<Content>, RegistryScope, BlockRun)>;

/// One shard's part of what a node answers.
pub struct Server {
    me: Weak<Self>,
    books: Arc<Books>,
    store: Store,
    origin: Rc<dyn Origin>,
    mesh: OnceCell<Weak<Mesh>>,
    seeds_version: watch::Receiver<u64>,
    answers: Cell<usize>,
    reach: RefCell<Reach>,
    checks: RefCell<Checks>,
    follows: Cell<usize>,
    brings: Rc<tokio::sync::Semaphore>,
    hashes: tokio::sync::Semaphore,
    on_lost: RefCell<Option<TellLost>>,
}

/// A plot of which this node has the content.
pub(crate) struct Site {
    plot: Plot,
    content: Arc<Content>,
    registry: RegistryScope,
    board: Arc<Board>,
    /// Those that the content has of the span.
    blocks: BlockSet,
}

impl Server {
    /// To be given to [`Mesh::start`], and then that mesh to [`begin`](Self::begin).
    pub fn new(books: Arc<Books>, store: Store, origin: Rc<dyn Origin>) -> Rc<Self> {
        let seeds_version = books.seeds.changes();
        Rc::new_cyclic(|me| Self {
            me: me.clone(),
            books,
            store,
            origin,
            mesh: OnceCell::new(),
            seeds_version,
            answers: Cell::new(0),
            reach: RefCell::default(),
            checks: RefCell::default(),
            follows: Cell::new(0),
            brings: Rc::new(tokio::sync::Semaphore::new(bringing::BRINGS_MAX)),
            hashes: tokio::sync::Semaphore::new(1),
            on_lost: RefCell::default(),
        })
    }

    /// Others can be asked from now on. On the shard's runtime, inside a `LocalSet`.
    pub fn begin(self: &Rc<Self>, mesh: &Rc<Mesh>) {
        if self.mesh.set(Rc::downgrade(mesh)).is_ok() {
            // Subscribed from now on, whenever the task first runs.
            tokio::task::spawn_local(Self::pass_purges_on(self.me.clone(), self.books.purges()));
        }
    }

    /// Whom to tell of blocks that were found gone while somebody asked for them.
    pub fn on_lost(&self, tell: TellLost) {
        *self.on_lost.borrow_mut() = Some(tell);
    }

    /// What the shards share.
    pub fn books(&self) -> &Arc<Books> {
        &self.books
    }

    fn mesh(&self) -> Option<Rc<Mesh>> {
        self.mesh.get()?.upgrade()
    }

    async fn session(&self, node: &Node) -> Option<Rc<Session>> {
        let mesh = self.mesh()?;
        mesh.session(node)
            .await
            .inspect_err(|error| tracing::debug!(node = %node.id, %error, "a node cannot be asked"))
            .ok()
    }

    fn own_id(&self) -> NodeId {
        self.books.seeds.own().id
    }

    /// The plot, if this node has its content under that scope.
    fn site(&self, plot: &Plot) -> Option<Site> {
        let Scope::Registry(registry) = plot.scope else { return None };
        let content = self.store.find(&plot.content, registry)?;
        self.site_of(plot, content, registry)
    }

    fn site_of(&self, plot: &Plot, content: Arc<Content>, registry: RegistryScope) -> Option<Site> {
        let blocks = BlockSet::first(plot.span.blocks(content.layout()));
        if blocks.is_empty() {
            return None;
        }
        let board = self.board(plot)?;
        Some(Site { plot: *plot, content, registry, board, blocks })
    }

    /// The board of a plot, with what the store holds of it when it is new.
    fn board(&self, plot: &Plot) -> Option<Arc<Board>> {
        let (board, is_new) = self.books.boards.open(plot)?;
        if is_new
            && let Scope::Registry(registry) = plot.scope
            && let Some(content) = self.store.find(&plot.content, registry)
        {
            let layout = content.layout();
            let is_held = |place: &u32| {
                let block = plot.span.block(layout, *place);
                block.is_some_and(|block| self.store.has(&content, registry, block))
            };
            let held: BlockSet = (0..plot.span.blocks(layout)).filter(is_held).collect();
            if !held.is_empty() {
                board.stored(&held);
            }
        }
        Some(board)
    }

    /// Those of these blocks that the store holds now.
    fn held_of(&self, site: &Site, places: &BlockSet) -> BlockSet {
        let layout = site.content.layout();
        let is_held = |place: &u32| {
            let block = site.plot.span.block(layout, *place);
            block.is_some_and(|block| self.store.has(&site.content, site.registry, block))
        };
        places.places().filter(is_held).collect()
    }

    /// A block that was held is gone.
    fn lost(&self, site: &Site, place: u32) {
        site.board.lost(&BlockSet::one(place));
        let tell = self.on_lost.borrow().clone();
        if let Some(tell) = tell
            && let Some(run) = site.plot.span.run(site.content.layout(), &(place..place + 1))
        {
            tell(&site.content, site.registry, run);
        }
    }

    /// Refuses what has turned out to be wrong.
    async fn not_wrong(&self, plot: &Plot) -> Result<(), Stop> {
        match self.books.is_wrong(&plot.content, plot.scope) {
            true => Err(because(Code::WrongContent, "its bytes have another digest than its name").into()),
            false => Ok(()),
        }
    }

    async fn answer(
        self: &Rc<Self>,
        asker: &Node,
        request: Message,
        exchange: &mut Exchange,
    ) -> Result<(), Stop> {
        match request {
            Message::Take(take) => self.take(asker, &take, exchange).await,
            Message::Watch(watch) => self.watch(&watch.plot, exchange).await,
            Message::Want(want) => self.want(asker, &want, exchange).await,
            Message::FindParents(find) => self.find_parents(asker, &find, exchange).await,
            Message::Describe(describe) => self.describe(describe, exchange).await,
            Message::Prove(prove) => self.prove(prove, exchange).await,
            Message::MapOf(map_of) => self.tell_map(&map_of, exchange).await,
            Message::Spread(spread) => self.spread(spread, exchange).await,
            Message::Preheat(preheat) => self.preheat(&preheat, exchange).await,
            // Who never owns anything need not remember what others send.
            Message::Recall(_) | Message::Booted(_) if !self.books.seeds.is_seed() => {
                Err(not_owner(None).into())
            }
            Message::Recall(recall) => {
                let runs = self.books.recall(&recall.content);
                Ok(exchange.send(BootOrder { runs }).await?)
            }
            Message::Booted(booted) => {
                self.books.booted(booted.content, booted.runs);
                Ok(exchange.send(End {}).await?)
            }
            other => {
                let detail = format!("{} is no request", other.name());
                Err(because(Code::Malformed, &detail).into())
            }
        }
    }

    /// A seed says that the bytes of a content are wrong.
    fn purged(&self, purge: &Purge) {
        let Purge { content, scope } = *purge;
        // What this node has proved itself is right, whoever says otherwise.
        let found = match scope {
            Scope::Registry(registry) => self.store.find(&content, registry),
            Scope::Verified => None,
        };
        if found.is_some_and(|content| content.verification() == Verification::Passed) {
            tracing::warn!(content = %content, "a seed calls bytes wrong whose digest is right here; they stay");
            return;
        }
        self.books.forget_wrong(content, scope);
        self.origin.purged(content, scope);
    }

    /// Tells this shard's sessions what the shards have purged.
    async fn pass_purges_on(server: Weak<Self>, mut purges: broadcast::Receiver<Sent>) {
        loop {
            let sent = match purges.recv().await {
                Ok(sent) => sent,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "too many contents were wrong at once to tell all nodes of each");
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            let Some(mesh) = server.upgrade().and_then(|server| server.mesh()) else { return };
            let mut left: Vec<_> = mesh.sessions();
            left.retain(|session| sent.to.contains(&session.node().id));
            tokio::task::spawn_local(async move {
                for _ in 0..PURGE_TRIES {
                    left.retain(|session| !session.is_over() && !session.tell(sent.purge.clone()));
                    if left.is_empty() {
                        return;
                    }
                    tokio::time::sleep(PURGE_PAUSE).await;
                }
            });
        }
    }
}

impl Service for Server {
    fn up(&self, session: &Rc<Session>) {
        self.books.up(session.node());
    }

    fn down(&self, session: &Rc<Session>) {
        self.books.down(&session.node().id);
    }

    fn told(&self, session: &Rc<Session>, message: Message) {
        if !message.may_come_from(session.role()) {
            session.close(Code::Forbidden, "a peer said what only seeds may");
            return;
        }
        let from = session.node().id;
        match message {
            Message::Holds(holds) => {
                self.books.map().tracker.record(&from, &holds, Instant::now());
                self.stand_by(&holds);
            }
            Message::Complain(complaint) => self.complain(&from, &complaint),
            Message::Purge(purge) => self.purged(&purge),
            Message::Leaving(_) => {
                self.books.map().tracker.part(&from);
                if session.role() == Role::Seed {
                    self.books.seeds.left(&from);
                }
            }
            Message::Seeds(seeds) => self.books.seeds.told(&seeds),
            other => tracing::debug!(%from, message = other.name(), "a message that has no place here"),
        }
    }

    fn asked(&self, session: &Rc<Session>, request: Message, mut exchange: Exchange) {
        let Some(me) = self.me.upgrade() else { return };
        if !request.may_come_from(session.role()) {
            session.close(Code::Forbidden, "a peer asked what only seeds may");
            return;
        }
        let refused = match self.answers.get() {
            _ if self.books.is_leaving() => Some(because(Code::Leaving, "this node goes")),
            answers if answers >= ANSWERS_MAX => Some(busy(std::time::Duration::from_secs(1))),
            _ => None,
        };
        self.answers.set(self.answers.get() + 1);
        let session = session.clone();
        tokio::task::spawn_local(async move {
            let answered = match refused {
                Some(refused) => Err(refused.into()),
                None => me.answer(session.node(), request, &mut exchange).await,
            };
            match answered {
                Ok(()) => _ = exchange.done().await,
                Err(Stop::Refuse(refused)) => exchange.refuse(refused).await,
                Err(Stop::Over(_)) => {}
            }
            me.answers.set(me.answers.get() - 1);
        });
    }
}
