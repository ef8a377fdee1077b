//! What stands in for a daemon: it brings one blob, and keeps it.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::store::Touch;
use darter_engine::{
    BlockIndex, BlockRun, Content, ContentId, ContentSpec, HashedBlock, Layout, Naming, RegistryScope, Scope,
    Store,
};
use tokio::sync::{Notify, mpsc};

use super::super::*;
use super::registry::{REGISTRY, Registry};
use crate::block_set::BlockSet;
use crate::node::Node;
use crate::service::{Bring, LocalBoxFuture};
use crate::wire::{Code, Opaque, Preheat, Take};

/// What a daemon does for one blob.
pub(super) struct Daemon {
    pub(super) store: Store,
    pub(super) registry: Arc<Registry>,
    pub(super) cluster: OnceCell<Weak<Cluster>>,
    /// Blocks that are on their way from the registry.
    on_way: RefCell<HashMap<u32, Rc<Notify>>>,
}

impl Daemon {
    pub(super) fn new(store: Store, registry: Arc<Registry>) -> Rc<Self> {
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
        let (runs, errand) = (vec![run], Opaque::default());
        Wanted { content: content.clone(), registry: self.scope(), runs, bulk, errand }
    }

    /// Brings a run and keeps it.
    pub(super) async fn bring_run(&self, content: &Arc<Content>, run: BlockRun, bulk: bool) {
        let mut pulled = self.cluster().pull(self.wanted(content, run, bulk));
        while let Some(pulled) = pulled.recv().await {
            match pulled {
                Pulled::Block(block, hashed) => {
                    assert!(*hashed.bytes() == self.registry.of(block), "block {} is wrong", block.number());
                    self.keep(content, block, hashed).await;
                }
                Pulled::GoToOrigin(run) => {
                    for block in run.blocks() {
                        self.by_origin(content, block).await;
                    }
                }
                Pulled::Refused(refused) => panic!("{refused:?}"),
            }
        }
    }

    /// Drops all that it holds of the blob, as if it had never had it.
    pub(super) async fn forget(&self) {
        if let Some(content) = self.store.find(&self.registry.id(), self.scope()) {
            self.store.remove(&content);
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
            let read =
                self.store.read_copied(content, self.scope(), one, Touch::Ignored).await.expect("held");
            assert!(read.concat() == self.registry.of(block), "block {} is wrong", block.number());
        }
    }

    /// Connects with another node.
    pub(super) async fn meet(&self, node: &Node) {
        self.cluster().mesh().session(node).await.expect("it listens");
    }

    /// Takes of another node what it gives of the blob, and says how many blocks these were. Each has to be right.
    pub(super) async fn take_all_of(&self, node: &Node) -> usize {
        let cluster = self.cluster();
        let session = cluster.mesh().session(node).await.expect("it listens");
        let layout = self.registry.layout();
        let (plot, places) = (self.registry.plot(), BlockSet::first(layout.block_count()));
        let mut exchange = session.ask(Take { plot, places, wait_ms: 0 }).await.expect("a stream");
        let mut taken = 0;
        loop {
            match exchange.next().await.expect("an answer") {
                Some(Message::Blocks(blocks)) => {
                    for place in blocks.places().expect("some") {
                        let block = layout.block(place).expect("of the blob");
                        let buffer = self.store.pool().take().await;
                        let bytes = exchange.read_block(buffer, layout.block_bytes(block)).await;
                        assert!(bytes.expect("a block") == self.registry.of(block), "{place} is wrong");
                        taken += 1;
                    }
                }
                Some(Message::End(_)) | None => return taken,
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    async fn keep(&self, content: &Arc<Content>, block: BlockIndex, hashed: HashedBlock) {
        let run = content.layout().run(block.number(), block.number() + 1).unwrap();
        let reservation = Arc::new(self.store.reserve(content, run).await.expect("room"));
        self.cluster().came(content, self.scope(), block, std::slice::from_ref(&hashed));
        self.store.write(&reservation, block, vec![hashed], REGISTRY).await.expect("written");
        // What is just being written for somebody else is passed over.
        while !self.store.has(content, self.scope(), block) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.cluster().stored(content, self.scope(), run);
    }

    /// A block, asked of the registry once however many want it.
    async fn by_origin(&self, content: &Arc<Content>, block: BlockIndex) -> Bytes {
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
        let bytes = self.registry.of(block);
        self.registry.given_bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.keep(content, block, HashedBlock::new(bytes.clone())).await;
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
                let bytes = self.by_origin(&bring.content, block).await;
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

    /// None of these stories tells nodes to bring what nobody reads.
    fn preheat(&self, _: &Preheat) -> Result<(Arc<Content>, LocalBoxFuture<'_, ()>), Refused> {
        Err(Refused::of(Code::Unkept, "nothing is brought unasked"))
    }

    fn purged(&self, content: ContentId, _: Scope) {
        if let Some(content) = self.store.find(&content, self.scope()) {
            self.store.remove(&content);
        }
    }
}
