//! Several nodes in one process: real stores, real lanes on loopback, and origins that count what they give.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use darter_engine::ring::Backend;
use darter_engine::{
    BLOCK_BYTES, BlockIndex, BlockRun, Content, ContentId, ContentSpec, HashedBlock, Layout, Naming,
    RegistryScope, Scope, Store, StoreOptions,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::super::*;
use crate::identity::{ClusterSecrets, Identities, Identity, NodeKey};
use crate::lane::{Endpoint, Lanes, bind};
use crate::mesh::Introduction;
use crate::seeds::{Seeds, Standing};
use crate::span::SpanIndex;
use crate::wire::{
    Attested, BlockDigest, Change, Describe, Errand, Holder, Holds, List, Load, Opaque, Preheat, Proof,
    Prove, Refused, Take, Text, Want,
};

/// No test takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const REGISTRY: &str = "https://registry.test:443";

/// Runs a story on one shard.
pub(super) fn run(story: impl Future<Output = ()>) {
    let story = async { timeout(PATIENCE, story).await.expect("it hangs") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, story);
}

/// Waits until something is so.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what} does not come about"));
}

pub(super) fn registry() -> RegistryScope {
    RegistryScope::of_origin(REGISTRY)
}

/// A blob whose bytes anyone can work out.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    body: String,
    pub(super) id: ContentId,
}

impl Blob {
    pub(super) fn new(name: &str, blocks: u32) -> Self {
        let block =
            |number: u32| format!("{name} {number} ").chars().cycle().take(BLOCK_BYTES as usize).collect();
        let body: String = (0..blocks).map(block).collect::<Vec<String>>().concat();
        let body = body[..body.len() - 100].to_owned();
        let id = ContentId::of_name(&body);
        Self { body, id }
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::new(self.body.len() as u64).unwrap()
    }

    pub(super) fn block(&self, place: u32) -> Bytes {
        let bytes = self.layout().bytes(self.run(place, 1));
        Bytes::copy_from_slice(&self.body.as_bytes()[bytes.start as usize..bytes.end as usize])
    }

    pub(super) fn digest(&self, place: u32) -> BlockDigest {
        blake3::hash(&self.block(place)).into()
    }

    pub(super) fn run(&self, first: u32, count: u32) -> BlockRun {
        self.layout().run(first, first + count).unwrap()
    }

    pub(super) fn plot(&self) -> Plot {
        Plot { content: self.id, scope: Scope::Registry(registry()), span: SpanIndex::FIRST }
    }

    pub(super) fn spec(&self) -> ContentSpec {
        ContentSpec {
            id: self.id,
            naming: Naming::Digest,
            layout: self.layout(),
            registry: REGISTRY.into(),
            media_type: "application/octet-stream".into(),
            validator: String::new(),
        }
    }
}

/// The way to an origin that counts.
pub(super) struct TestOrigin {
    store: Store,
    books: Arc<Books>,
    blobs: RefCell<Vec<Blob>>,
    /// How often each block was given.
    pub(super) given: RefCell<BTreeMap<(ContentId, u32), u32>>,
    pub(super) described: Cell<u32>,
    /// The same, without asking the content's owner first.
    pub(super) described_by_registry: Cell<u32>,
    pub(super) proved: Cell<u32>,
    pub(super) purged: RefCell<Vec<ContentId>>,
    /// How long a request takes.
    pub(super) delay: Cell<Duration>,
    /// Errands that the registry refuses.
    pub(super) refuses: RefCell<Vec<Errand>>,
    /// Blocks of a content that other nodes are said to have, when this one takes all.
    pub(super) gathers: Cell<u32>,
    /// Nothing finds room in the store.
    pub(super) keeps_nothing: Cell<bool>,
}

impl TestOrigin {
    pub(super) fn total(&self) -> u32 {
        self.given.borrow().values().sum()
    }

    fn blob(&self, id: ContentId) -> Blob {
        self.blobs.borrow().iter().find(|blob| blob.id == id).expect("a blob of the test").clone()
    }
}

impl Origin for TestOrigin {
    fn describe(&self, ask: Describe) -> LocalBoxFuture<'_, Result<Arc<Content>, Refused>> {
        Box::pin(async move {
            self.described.set(self.described.get() + 1);
            self.described_by_registry.set(self.described_by_registry.get() + u32::from(ask.forwarded));
            sleep(self.delay.get()).await;
            let blob = self.blob(ask.content);
            self.store.create(&blob.spec()).ok_or_else(|| because(Code::Unkept, "no room"))
        })
    }

    fn bring(
        &self,
        bring: Bring,
        blocks: mpsc::Sender<(BlockIndex, Bytes)>,
    ) -> LocalBoxFuture<'_, Result<(), Refused>> {
        Box::pin(async move {
            let blob = self.blob(bring.content.id());
            if self.refuses.borrow().contains(&bring.errand) {
                sleep(self.delay.get()).await;
                return Err(because(Code::Origin, "the registry says no"));
            }
            for block in bring.run.blocks() {
                *self.given.borrow_mut().entry((blob.id, block.number())).or_default() += 1;
                sleep(self.delay.get()).await;
                let bytes = blob.block(block.number());
                let _ = blocks.send((block, bytes.clone())).await;
                if !self.keeps_nothing.get() {
                    sleep(Duration::from_millis(2)).await;
                    put(&self.store, &bring.content, block.number(), bytes).await;
                    self.books.stored(&blob.id, registry(), blob.run(block.number(), 1));
                }
            }
            Ok(())
        })
    }

    fn prove(&self, ask: Prove) -> LocalBoxFuture<'_, Result<Proof, Refused>> {
        Box::pin(async move {
            self.proved.set(self.proved.get() + 1);
            sleep(self.delay.get()).await;
            let granted = !self.refuses.borrow().contains(&ask.errand);
            Ok(Proof { granted, lasts_s: 300, verdict: Opaque::default() })
        })
    }

    fn preheat(&self, told: &Preheat) -> Result<(Arc<Content>, LocalBoxFuture<'_, ()>), Refused> {
        if self.keeps_nothing.get() {
            return Err(because(Code::Unkept, "no room"));
        }
        let blob = self.blob(told.content);
        let content = self.store.create(&blob.spec()).ok_or_else(|| because(Code::Unkept, "no room"))?;
        let gathering = {
            let content = content.clone();
            async move {
                for place in 0..self.gathers.get().min(content.layout().block_count()) {
                    sleep(self.delay.get()).await;
                    put(&self.store, &content, place, blob.block(place)).await;
                }
            }
        };
        Ok((content, Box::pin(gathering)))
    }

    fn purged(&self, content: ContentId, _: Scope) {
        self.purged.borrow_mut().push(content);
        if let Some(content) = self.store.find(&content, registry()) {
            self.store.remove(&content);
        }
    }
}

/// Writes a block to a store.
pub(super) async fn put(store: &Store, content: &Arc<Content>, place: u32, bytes: Bytes) {
    let run = content.layout().run(place, place + 1).unwrap();
    let reservation = Arc::new(store.reserve(content, run).await.expect("room"));
    store.write(&reservation, run.first(), vec![HashedBlock::new(bytes)], REGISTRY).await.expect("written");
}

/// One node.
pub(super) struct TestNode {
    pub(super) node: Node,
    pub(super) role: Role,
    pub(super) server: Rc<Server>,
    pub(super) books: Arc<Books>,
    pub(super) seeds: Arc<Seeds>,
    pub(super) store: Store,
    pub(super) mesh: Rc<Mesh>,
    pub(super) origin: Rc<TestOrigin>,
    pub(super) directory: TempDir,
}

/// What a node was answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) blocks: BTreeMap<u32, Bytes>,
    pub(super) attested: BTreeMap<u32, BlockDigest>,
    pub(super) holders: Vec<Holder>,
    pub(super) refused: Option<Refused>,
}

impl Answer {
    pub(super) fn code(&self) -> Option<Code> {
        self.refused.as_ref().map(Refused::reason)
    }

    /// The blocks are those of the blob, and each digest was told before.
    pub(super) fn check(&self, blob: &Blob) {
        for (place, bytes) in &self.blocks {
            assert_eq!(*bytes, blob.block(*place), "block {place}");
        }
        for (place, digest) in &self.attested {
            assert_eq!(*digest, blob.digest(*place), "digest {place}");
        }
    }
}

impl TestNode {
    async fn new(secrets: &ClusterSecrets, role: Role) -> Self {
        let key = NodeKey::generate().expect("randomness");
        let secrets = if role == Role::Seed { secrets.clone() } else { secrets.for_peers() };
        let identity = Identity::from_secrets(&secrets, role, &key, SystemTime::now()).expect("an identity");
        let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let socket = bind(loopback, NonZeroU8::MIN).expect("free ports").pop().expect("one");
        let endpoint =
            Endpoint::start(socket, Arc::new(Identities::new(identity)), Lanes::Quic).expect("started");
        let (id, address) = (endpoint.own().id, endpoint.local_addr());
        let node = Node { id, address, zone: Text::cut("") };
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions {
            data_dir: directory.path().into(),
            capacity_bytes: Some(64 << 20),
            backend: Backend::Pool,
            pool_blocks: 256,
            ttl: None,
        })
        .unwrap();
        let seeds = Seeds::new(node.clone(), 256, role);
        let books = Books::new(seeds.clone(), 1);
        let origin = Rc::new(TestOrigin {
            store: store.clone(),
            books: books.clone(),
            blobs: RefCell::default(),
            given: RefCell::default(),
            described: Cell::default(),
            described_by_registry: Cell::default(),
            proved: Cell::default(),
            purged: RefCell::default(),
            delay: Cell::default(),
            refuses: RefCell::default(),
            gathers: Cell::new(u32::MAX),
            keeps_nothing: Cell::default(),
        });
        let server = Server::new(books.clone(), store.clone(), origin.clone());
        let introduction = Introduction {
            address,
            zone: Text::cut(""),
            capacity_slots: 256,
            shards: 1,
            software: Text::cut("test"),
        };
        let mesh = Mesh::start(endpoint, introduction, server.clone());
        server.begin(&mesh);
        Self { node, role, server, books, seeds, store, mesh, origin, directory }
    }

    /// This node sees these seeds.
    pub(super) fn sees<'a>(&self, nodes: impl IntoIterator<Item = &'a Self>) {
        for other in nodes.into_iter().filter(|other| other.role == Role::Seed) {
            let (node, capacity_slots) = (other.node.clone(), 256);
            self.seeds.up(crate::wire::Seed { node, capacity_slots, owns: true });
        }
        self.seeds.stands(Standing::Joined);
    }

    pub(super) async fn session(&self, other: &Self) -> Rc<Session> {
        self.mesh.session(&other.node).await.expect("a session")
    }

    /// Asks, and hears all of the answer.
    pub(super) async fn ask(&self, other: &Self, request: impl Into<Message>, blob: &Blob) -> Answer {
        let session = self.session(other).await;
        let mut exchange = session.ask(request).await.expect("asked");
        let mut answer = Answer::default();
        while let Some(message) = exchange.next().await.expect("an answer") {
            if !self.hear(message, blob, &mut exchange, &mut answer).await {
                break;
            }
        }
        answer.check(blob);
        answer
    }

    async fn hear(
        &self,
        message: Message,
        blob: &Blob,
        exchange: &mut Exchange,
        answer: &mut Answer,
    ) -> bool {
        match message {
            Message::Blocks(blocks) => {
                for place in blocks.places().expect("some") {
                    let bytes = blob.block(place).len() as u32;
                    let block =
                        exchange.read_block(self.store.pool().take().await, bytes).await.expect("a block");
                    assert!(answer.blocks.insert(place, block).is_none(), "{place} came twice");
                }
                true
            }
            Message::Attested(Attested { first, digests }) => {
                answer.attested.extend((u32::from(first)..).zip(digests.iter().copied()));
                true
            }
            Message::Holders(holders) => {
                answer.holders.extend(holders.holders.iter().cloned());
                true
            }
            Message::Refused(refused) => {
                answer.refused = Some(refused);
                false
            }
            Message::End(_) => false,
            other => panic!("{} is no answer", other.name()),
        }
    }

    pub(super) async fn want(&self, owner: &Self, blob: &Blob, places: &[u32]) -> Answer {
        self.ask(owner, want(blob, places), blob).await
    }

    pub(super) async fn take(&self, parent: &Self, blob: &Blob, places: &[u32], wait_ms: u16) -> Answer {
        let (plot, places) = (blob.plot(), places.iter().copied().collect());
        self.ask(parent, Take { plot, places, wait_ms }, blob).await
    }

    /// Holds a blob's block now, in its store.
    pub(super) async fn hold(&self, blob: &Blob, place: u32, bytes: Bytes) {
        let content = self.store.create(&blob.spec()).expect("room");
        put(&self.store, &content, place, bytes).await;
        self.books.stored(&blob.id, registry(), blob.run(place, 1));
    }

    pub(super) async fn holds(&self, blob: &Blob, places: &[u32]) {
        for place in places {
            self.hold(blob, *place, blob.block(*place)).await;
        }
    }

    /// Tells a seed that it holds these, and waits until that has heard it.
    pub(super) async fn register(&self, seed: &Self, blob: &Blob, places: &[u32]) {
        let held: BlockSet = places.iter().copied().collect();
        let changes = List::first_of([Change { plot: blob.plot(), held, lost: BlockSet::EMPTY }]);
        assert!(self.session(seed).await.tell(Holds { changes, load: Load::default() }));
        let knows = || {
            let map = seed.books.map();
            map.tracker
                .holders(&blob.plot())
                .any(|holder| holder.node.id == self.node.id && held.minus(&holder.held).is_empty())
        };
        until("a registration", knows).await;
    }
}

pub(super) fn want(blob: &Blob, places: &[u32]) -> Want {
    Want {
        plot: blob.plot(),
        places: places.iter().copied().collect(),
        any: false,
        forwarded: false,
        stand_in: false,
        failed: List::default(),
        errand: errand("someone"),
    }
}

pub(super) fn errand(of: &str) -> Errand {
    Opaque::new(Bytes::copy_from_slice(of.as_bytes())).unwrap()
}

/// A cluster that has nothing yet.
pub(super) struct TestCluster {
    pub(super) seeds: Vec<TestNode>,
    pub(super) peers: Vec<TestNode>,
}

impl TestCluster {
    pub(super) async fn new(seeds: usize, peers: usize, blobs: &[Blob]) -> Self {
        let secrets =
            ClusterSecrets::generate(SystemTime::now() - Duration::from_secs(7200)).expect("randomness");
        let mut cluster = Self { seeds: Vec::new(), peers: Vec::new() };
        for _ in 0..seeds {
            cluster.seeds.push(TestNode::new(&secrets, Role::Seed).await);
        }
        for _ in 0..peers {
            cluster.peers.push(TestNode::new(&secrets, Role::Peer).await);
        }
        for node in cluster.seeds.iter().chain(&cluster.peers) {
            node.sees(&cluster.seeds);
            node.origin.blobs.borrow_mut().extend_from_slice(blobs);
        }
        cluster
    }

    /// The origin has another blob.
    pub(super) fn add(&self, blob: &Blob) {
        let nodes = self.seeds.iter().chain(&self.peers);
        nodes.for_each(|node| node.origin.blobs.borrow_mut().push(blob.clone()));
    }

    /// Owner and deputy of a blob among the seeds.
    pub(super) fn owners(&self, blob: &Blob) -> (&TestNode, Option<&TestNode>) {
        self.owners_of(blob, false)
    }

    /// The same, or those of its first span if spans are owned each by itself.
    pub(super) fn owners_of(&self, blob: &Blob, by_span: bool) -> (&TestNode, Option<&TestNode>) {
        let (owner, deputy) = self.seeds[0].seeds.owners(&blob.plot(), by_span).expect("an owner");
        let of = |node: Node| self.seeds.iter().find(|seed| seed.node.id == node.id).expect("a seed");
        (of(owner), deputy.map(of))
    }
}
