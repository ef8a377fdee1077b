//! Nodes of one process: each has a thread with a runtime of its own, a real store, and real lanes on loopback. A small
//! daemon stands in for the real one: it brings what it is told to bring from a registry that counts what it gives.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use darter_engine::ring::{self, Backend};
use darter_engine::{
    BlockIndex, BlockRun, Content, ContentId, ContentSpec, Layout, Naming, RegistryScope, Scope, Store,
    StoreOptions,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::super::*;
use crate::block_set::BlockSet;
use crate::identity::{ClusterSecrets, Identities, Identity, NodeKey};
use crate::lane::{Lanes, bind};
use crate::mesh::Service;
use crate::node::{Node, NodeId, Role};
use crate::seeds::Seeds;
use crate::service::{Bring, LocalBoxFuture};
use crate::wire::{Change, Code, End, Have, Holds, List, Load, Opaque, Text};

pub(super) const REGISTRY: &str = "https://registry.test:443";
/// No test takes so long unless it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
const CAPACITY_SLOTS: u32 = 4096;
/// Blocks of a node's pool: 32 MiB.
pub(super) const POOL_BLOCKS: usize = 512;

/// The registry, with one blob.
pub(super) struct Registry {
    pub(super) bytes: Bytes,
    pub(super) given_bytes: AtomicU64,
    /// How long it takes for a block.
    pub(super) takes: Duration,
}

impl Registry {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Self::slow(bytes, Duration::ZERO)
    }

    pub(super) fn slow(bytes: usize, takes: Duration) -> Arc<Self> {
        let mut data = vec![0; bytes];
        blake3::Hasher::new().update(b"a blob").finalize_xof().fill(&mut data);
        Arc::new(Self { bytes: data.into(), given_bytes: AtomicU64::new(0), takes })
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::new(self.bytes.len() as u64).unwrap()
    }

    pub(super) fn id(&self) -> ContentId {
        ContentId::of_name("a blob")
    }

    pub(super) fn plot(&self) -> Plot {
        let registry = RegistryScope::of_origin(REGISTRY);
        Plot { content: self.id(), scope: Scope::Registry(registry), span: SpanIndex::FIRST }
    }

    pub(super) fn of(&self, block: BlockIndex) -> Bytes {
        let range = self.layout().bytes(self.layout().run(block.number(), block.number() + 1).unwrap());
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    pub(super) fn given(&self) -> u64 {
        self.given_bytes.load(Ordering::SeqCst)
    }

    /// What it gave, in hundredths of the blob.
    pub(super) fn given_percent(&self) -> u64 {
        self.given() * 100 / self.bytes.len() as u64
    }
}

pub(super) fn secrets() -> ClusterSecrets {
    ClusterSecrets::generate(SystemTime::now() - Duration::from_secs(7200)).expect("randomness")
}

/// The shard's sockets of a new node, and who it is.
pub(super) fn endpoint(secrets: &ClusterSecrets, role: Role) -> (Endpoint, Node) {
    let key = NodeKey::generate().expect("randomness");
    let secrets = if role == Role::Seed { secrets.clone() } else { secrets.for_peers() };
    let identity = Identity::from_secrets(&secrets, role, &key, SystemTime::now()).expect("an identity");
    let sockets = bind((Ipv4Addr::LOCALHOST, 0).into(), NonZeroU8::MIN).expect("a free port").pop().unwrap();
    let endpoint =
        Endpoint::start(sockets, Arc::new(Identities::new(identity)), Lanes::Auto).expect("started");
    let node = Node { id: key.id(), address: endpoint.local_addr(), zone: Text::cut("") };
    (endpoint, node)
}

pub(super) fn introduction(node: &Node) -> Introduction {
    Introduction {
        address: node.address,
        zone: node.zone.clone(),
        capacity_slots: CAPACITY_SLOTS,
        shards: 1,
        software: Text::cut("a test"),
    }
}

type Work = Box<dyn FnOnce(Rc<Daemon>) -> LocalBoxFuture<'static, ()> + Send>;

/// A node as the test has it. Dropped, it is killed.
pub(super) struct TestNode {
    pub(super) node: Node,
    pub(super) shared: Arc<Shared>,
    role: Role,
    /// Where it is told that seeds are.
    finds: watch::Sender<Vec<SocketAddr>>,
    works: Option<mpsc::UnboundedSender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl TestNode {
    pub(super) fn start(secrets: &ClusterSecrets, role: Role, registry: &Arc<Registry>) -> Self {
        let (works, mut inbox) = mpsc::unbounded_channel::<Work>();
        let (ready, started) = std::sync::mpsc::channel();
        let (secrets, registry) = (secrets.clone(), registry.clone());
        let (finds, found) = watch::channel(Vec::new());
        let life = move || async move {
            let directory = tempfile::tempdir().expect("a directory");
            let store = Store::open(&StoreOptions {
                data_dir: directory.path().into(),
                capacity_bytes: Some(512 << 20),
                backend: Backend::Pool,
                pool_blocks: POOL_BLOCKS,
                ttl: None,
            })
            .expect("a store");
            let (endpoint, node) = endpoint(&secrets, role);
            let shared = Shared::new(Seeds::new(node.clone(), CAPACITY_SLOTS, role), 1);
            let daemon = Daemon::new(store.clone(), registry);
            let parts = Parts {
                endpoint,
                introduction: introduction(&node),
                store: store.clone(),
                origin: daemon.clone(),
                chance_seed: 1,
                found,
            };
            let cluster = Cluster::start(shared.clone(), parts);
            daemon.cluster.set(Rc::downgrade(&cluster)).expect("once");
            ready.send((node, shared)).expect("the test waits");
            while let Some(work) = inbox.recv().await {
                tokio::task::spawn_local(work(daemon.clone()));
            }
            store.close();
        };
        let thread = std::thread::spawn(move || ring::run_shard(Backend::Pool, life()).expect("a runtime"));
        let (node, shared) = started.recv().expect("it starts");
        Self { node, shared, role, finds, works: Some(works), thread: Some(thread) }
    }

    /// Has the node do something.
    pub(super) async fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(Rc<Daemon>) -> F + Send + 'static,
    ) -> T {
        let (to, from) = oneshot::channel();
        let work: Work = Box::new(move |daemon| {
            Box::pin(async move {
                let _ = to.send(work(daemon).await);
            })
        });
        self.works.as_ref().expect("alive").send(work).ok().expect("alive");
        from.await.expect("the work does not panic")
    }

    pub(super) fn kill(&mut self) {
        drop(self.works.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a node panicked");
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Tells all where the seeds are, and waits until each knows each seed, and that it owns.
pub(super) fn acquaint(nodes: &[TestNode]) {
    let seeds: Vec<&TestNode> = nodes.iter().filter(|node| node.role == Role::Seed).collect();
    let addresses: Vec<SocketAddr> = seeds.iter().map(|seed| seed.node.address).collect();
    nodes.iter().for_each(|node| _ = node.finds.send_replace(addresses.clone()));
    let knows_all = |node: &TestNode| {
        let live = node.shared.seeds().live();
        live.len() == seeds.len() && live.iter().all(|seed| seed.owns)
    };
    let deadline = std::time::Instant::now() + PATIENCE;
    while !nodes.iter().all(knows_all) {
        assert!(std::time::Instant::now() < deadline, "the nodes do not find each other");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Some seeds and some peers that know each other; the owner of the registry's blob is the first, its deputy the second.
pub(super) fn nodes(seeds: usize, peers: usize, registry: &Arc<Registry>) -> Vec<TestNode> {
    let secrets = secrets();
    let roles = std::iter::repeat_n(Role::Seed, seeds).chain(std::iter::repeat_n(Role::Peer, peers));
    let mut nodes: Vec<TestNode> = roles.map(|role| TestNode::start(&secrets, role, registry)).collect();
    acquaint(&nodes);
    let (owner, deputy) = nodes[0].shared.seeds().owners(&registry.plot(), false).expect("seeds");
    let rank = |id: &NodeId| {
        if *id == owner.id { 0 } else { 2 - u8::from(deputy.as_ref().is_some_and(|deputy| deputy.id == *id)) }
    };
    nodes.sort_by_key(|node| (node.role == Role::Peer, rank(&node.node.id)));
    nodes
}

pub(super) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it hangs") })
}

/// What a daemon does for one blob.
pub(super) struct Daemon {
    pub(super) store: Store,
    pub(super) registry: Arc<Registry>,
    pub(super) cluster: OnceCell<Weak<Cluster>>,
    on_way: RefCell<HashMap<u32, Rc<Notify>>>,
}

impl Daemon {
    fn new(store: Store, registry: Arc<Registry>) -> Rc<Self> {
        Rc::new(Self { store, registry, cluster: OnceCell::new(), on_way: RefCell::default() })
    }

    pub(super) fn cluster(&self) -> Rc<Cluster> {
        self.cluster.get().and_then(Weak::upgrade).expect("it runs")
    }

    pub(super) fn scope(&self) -> RegistryScope {
        RegistryScope::of_origin(REGISTRY)
    }

    fn create(&self, length: u64) -> Arc<Content> {
        let spec = ContentSpec {
            id: self.registry.id(),
            naming: Naming::Digest,
            layout: Layout::new(length).expect("not too long"),
            registry: REGISTRY.into(),
            media_type: String::new(),
            validator: String::new(),
        };
        self.store.create(&spec).expect("room")
    }

    /// Learns of the blob: from its owner, or from the registry.
    pub(super) async fn describe(&self) -> Arc<Content> {
        if let Some(content) = self.store.find(&self.registry.id(), self.scope()) {
            return content;
        }
        let ask = Describe {
            content: self.registry.id(),
            by_digest: true,
            registry: self.scope(),
            forwarded: false,
            errand: Opaque::default(),
        };
        match self.cluster().describe(ask).await {
            Some(Ok(described)) => self.create(described.length),
            Some(Err(refused)) => panic!("{refused:?}"),
            None => self.create(self.registry.bytes.len() as u64),
        }
    }

    pub(super) fn wanted(&self, content: &Arc<Content>, run: BlockRun, bulk: bool) -> Wanted {
        Wanted { content: content.clone(), registry: self.scope(), run, bulk, errand: Opaque::default() }
    }

    /// Brings a run and keeps it.
    pub(super) async fn bring_run(&self, content: &Arc<Content>, run: BlockRun, bulk: bool) {
        let mut pulled = self.cluster().pull(self.wanted(content, run, bulk));
        while let Some(pulled) = pulled.recv().await {
            match pulled {
                Pulled::Block(block, bytes) => {
                    assert!(bytes == self.registry.of(block), "block {} is wrong", block.number());
                    self.keep(content, block, bytes).await;
                }
                Pulled::GoToOrigin(run) => {
                    for block in run.blocks() {
                        self.from_origin(content, block).await;
                    }
                }
                Pulled::Refused(refused) => panic!("{refused:?}"),
            }
        }
    }

    /// Pulls the whole blob, and looks whether it is right.
    pub(super) async fn pull_whole(&self) {
        let content = self.describe().await;
        let whole = content.layout().whole().expect("not empty");
        self.bring_run(&content, whole, true).await;
        self.check(&content, whole).await;
    }

    /// Reads it as a client does that waits for each part.
    pub(super) async fn read_whole(&self, blocks: u32) {
        let content = self.describe().await;
        let whole = content.layout().whole().expect("not empty");
        let mut left = Some(whole);
        while let Some(run) = left {
            self.bring_run(&content, run.take(blocks), false).await;
            left = run.skip(blocks);
        }
        self.check(&content, whole).await;
    }

    pub(super) async fn check(&self, content: &Arc<Content>, run: BlockRun) {
        for block in run.blocks() {
            let one = content.layout().run(block.number(), block.number() + 1).unwrap();
            let read = self.store.read_copied(content, self.scope(), one).await.expect("held");
            assert!(read.concat() == self.registry.of(block), "block {} is wrong", block.number());
        }
    }

    async fn keep(&self, content: &Arc<Content>, block: BlockIndex, bytes: Bytes) {
        let run = content.layout().run(block.number(), block.number() + 1).unwrap();
        let reservation = Arc::new(self.store.reserve(content, run).await.expect("room"));
        self.store.write(&reservation, block, vec![bytes], REGISTRY).await.expect("written");
        self.cluster().stored(content, self.scope(), run);
    }

    /// A block, asked of the registry once however many want it.
    async fn from_origin(&self, content: &Arc<Content>, block: BlockIndex) -> Bytes {
        loop {
            if self.store.has(content, self.scope(), block) {
                return self.registry.of(block);
            }
            let on_way = self.on_way.borrow().get(&block.number()).cloned();
            match on_way {
                Some(comes) => comes.notified().await,
                None => break,
            }
        }
        let comes = Rc::new(Notify::new());
        self.on_way.borrow_mut().insert(block.number(), comes.clone());
        tokio::time::sleep(self.registry.takes).await;
        let bytes = self.registry.of(block);
        self.registry.given_bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.keep(content, block, bytes.clone()).await;
        self.on_way.borrow_mut().remove(&block.number());
        comes.notify_waiters();
        bytes
    }
}

impl Origin for Daemon {
    fn describe(&self, _: Describe) -> LocalBoxFuture<'_, Result<Arc<Content>, Refused>> {
        Box::pin(async { Ok(self.create(self.registry.bytes.len() as u64)) })
    }

    fn bring(
        &self,
        bring: Bring,
        blocks: mpsc::Sender<(BlockIndex, Bytes)>,
    ) -> LocalBoxFuture<'_, Result<(), Refused>> {
        Box::pin(async move {
            for block in bring.run.blocks() {
                let bytes = self.from_origin(&bring.content, block).await;
                if blocks.send((block, bytes)).await.is_err() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn prove(&self, _: Prove) -> LocalBoxFuture<'_, Result<Proof, Refused>> {
        Box::pin(async { Ok(Proof { granted: true, lasts_s: 60, verdict: Opaque::default() }) })
    }

    fn purged(&self, content: ContentId, _: Scope) {
        if let Some(content) = self.store.find(&content, self.scope()) {
            self.store.remove(&content);
        }
    }
}

/// What a hostile or broken parent does when it is asked for blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vice {
    /// Sends other bytes.
    Lies,
    /// Sends one block in so long.
    Trickles(Duration),
    /// Announces blocks and sends none.
    Stops,
    /// Says that it is busy, always.
    Refuses,
}

/// A peer that says it has everything and is of no use. Dropped, it is killed.
pub(super) struct Rogue {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pub(super) asked: Arc<AtomicU64>,
}

impl Rogue {
    /// Registers with the owner, and is known there when this returns.
    pub(super) fn start(
        secrets: &ClusterSecrets,
        vice: Vice,
        owner: &TestNode,
        registry: &Arc<Registry>,
    ) -> Self {
        let (end, ended) = oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        let asked = Arc::new(AtomicU64::new(0));
        let (secrets, registry, counted) = (secrets.clone(), registry.clone(), asked.clone());
        let (at, at_owner) = (owner.node.clone(), owner.shared.clone());
        let life = move || async move {
            let (endpoint, node) = endpoint(&secrets, Role::Peer);
            let blocks = BlockSet::first(registry.layout().block_count());
            let manners = Rc::new(Manners { vice, registry: registry.clone(), asked: counted });
            let mesh = Mesh::start(endpoint, introduction(&node), manners);
            let session = mesh.session(&at).await.expect("the owner listens");
            let change = Change { plot: registry.plot(), held: blocks, lost: BlockSet::EMPTY };
            let changes = List::first_of([change]);
            assert!(session.tell(Holds { changes, load: Load::default() }));
            while at_owner.books().map().tracker.members(&registry.plot()) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ready.send(()).expect("the test waits");
            let _ = ended.await;
        };
        let thread = std::thread::spawn(move || ring::run_shard(Backend::Pool, life()).expect("a runtime"));
        started.recv().expect("it starts");
        Self { end: Some(end), thread: Some(thread), asked }
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Manners {
    vice: Vice,
    registry: Arc<Registry>,
    asked: Arc<AtomicU64>,
}

impl Service for Manners {
    fn up(&self, _: &Rc<Session>) {}

    fn down(&self, _: &Rc<Session>) {}

    fn told(&self, _: &Rc<Session>, _: Message) {}

    fn asked(&self, _: &Rc<Session>, request: Message, mut exchange: Exchange) {
        let (vice, registry) = (self.vice, self.registry.clone());
        if matches!(request, Message::Take(_)) {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        tokio::task::spawn_local(async move {
            match request {
                Message::Watch(_) => {
                    let held = BlockSet::first(registry.layout().block_count());
                    let have = Have { held, lost: BlockSet::EMPTY, load: Load::default() };
                    let _ = exchange.send(have).await;
                    std::future::pending::<()>().await;
                }
                Message::Take(take) => {
                    for place in take.places.places() {
                        let block = registry.layout().block(place).expect("of the blob");
                        let bytes = match vice {
                            Vice::Lies => vec![7; registry.of(block).len()].into(),
                            Vice::Trickles(takes) => {
                                tokio::time::sleep(takes).await;
                                registry.of(block)
                            }
                            Vice::Stops => std::future::pending().await,
                            Vice::Refuses => {
                                let (code, detail) = (Code::Busy.number(), Text::cut(""));
                                let (instead, verdict) = (None, Opaque::default());
                                return exchange
                                    .refuse(Refused { code, retry_ms: 20, instead, detail, verdict })
                                    .await;
                            }
                        };
                        if exchange.send_blocks(place..place + 1, vec![bytes]).await.is_err() {
                            return;
                        }
                    }
                    let _ = exchange.send(End {}).await;
                    let _ = exchange.done().await;
                }
                other => panic!("nobody asks a peer for {other:?}"),
            }
        });
    }
}
