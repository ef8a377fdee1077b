//! A peer with a valid certificate that says it has everything, and sends other bytes.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use darter_engine::ring::{self, Backend};
use tokio::sync::oneshot;

use super::nodes::{TestNode, endpoint, introduction};
use super::registry::Registry;
use crate::block_set::BlockSet;
use crate::exchange::{Exchange, ExchangeError};
use crate::identity::ClusterSecrets;
use crate::mesh::{Mesh, Service};
use crate::node::{NodeId, Role};
use crate::session::Session;
use crate::wire::{Change, End, Have, Holds, List, Load, Message, Take};

/// Dropped, it is gone.
pub(super) struct Rogue {
    pub(super) id: NodeId,
    asked: Arc<AtomicU64>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rogue {
    /// Registers with the owner, and is known there when this returns.
    pub(super) fn start(secrets: &ClusterSecrets, owner: &TestNode, registry: &Arc<Registry>) -> Self {
        let (end, ended) = oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        let asked = Arc::new(AtomicU64::new(0));
        let (secrets, registry, counted) = (secrets.clone(), registry.clone(), asked.clone());
        let (at, at_owner) = (owner.node.clone(), owner.shared.clone());
        let life = move || async move {
            let (endpoint, node) = endpoint(&secrets, Role::Peer);
            let plot = registry.plot();
            let held = BlockSet::first(registry.layout().block_count());
            let manners = Rc::new(Manners { registry, asked: counted });
            let mesh = Mesh::start(endpoint, introduction(&node), manners);
            let session = mesh.session(&at).await.expect("the owner listens");
            let changes = List::first_of([Change { plot, held, lost: BlockSet::EMPTY }]);
            assert!(session.tell(Holds { changes, load: Load::default() }));
            let is_known =
                || at_owner.books().map().tracker.holders(&plot).any(|holder| holder.node.id == node.id);
            while !is_known() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ready.send(node.id).expect("the test waits");
            let _ = ended.await;
        };
        let thread = std::thread::spawn(move || ring::run_shard(Backend::Pool, life()).expect("a runtime"));
        let id = started.recv().expect("it starts");
        Self { id, asked, end: Some(end), thread: Some(thread) }
    }

    /// How often it was asked for blocks.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
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
    registry: Arc<Registry>,
    asked: Arc<AtomicU64>,
}

impl Service for Manners {
    fn up(&self, _: &Rc<Session>) {}

    fn down(&self, _: &Rc<Session>) {}

    fn told(&self, _: &Rc<Session>, _: Message) {}

    fn asked(&self, _: &Rc<Session>, request: Message, mut exchange: Exchange) {
        let registry = self.registry.clone();
        if matches!(request, Message::Take(_)) {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        tokio::task::spawn_local(async move {
            match request {
                Message::Watch(_) => {
                    let held = BlockSet::first(registry.layout().block_count());
                    let have = Have { held, lost: BlockSet::EMPTY, load: Load::default() };
                    let _ = exchange.send(have).await;
                    // Until the watcher ends it.
                    let _ = exchange.next().await;
                }
                // Who is told that bytes are wrong leaves off.
                Message::Take(take) => _ = lie(&registry, &take, exchange).await,
                _ => {}
            }
        });
    }
}

async fn lie(registry: &Registry, take: &Take, mut exchange: Exchange) -> Result<(), ExchangeError> {
    for place in take.places.places() {
        let block = registry.layout().block(place).expect("of the blob");
        let mut bytes = registry.of(block).to_vec();
        // One bit, as a parent with broken memory would.
        bytes[0] ^= 1;
        exchange.send_blocks(place..place + 1, vec![bytes.into()]).await?;
    }
    exchange.send(End {}).await?;
    exchange.done().await
}
