//! Nodes of one process: each has a thread with a runtime of its own, a real store, and real lanes on loopback.

use std::collections::HashSet;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use darter_engine::ring::{self, Backend};
use darter_engine::{BLOCK_BYTES, StoreOptions};
use tokio::sync::{mpsc, oneshot, watch};

use super::super::*;
use super::daemon::Daemon;
use super::registry::Registry;
use crate::identity::{ClusterSecrets, Identities, Identity, NodeKey};
use crate::lane::{Lanes, bind};
use crate::node::{Node, NodeId};
use crate::seeds::Seeds;
use crate::service::LocalBoxFuture;
use crate::wire::Text;

/// No test takes so long unless it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Of each store: 128 MiB.
const CAPACITY_SLOTS: u32 = 512;
/// Blocks of a node's pool: 32 MiB.
const POOL_BLOCKS: usize = 512;
/// What tells one block from another.
const BEGINNING_BYTES: usize = 64;

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
    /// Where its store is.
    directory: PathBuf,
    /// Where it is told that seeds are.
    finds: watch::Sender<Vec<SocketAddr>>,
    works: Option<mpsc::UnboundedSender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl TestNode {
    fn start(secrets: &ClusterSecrets, role: Role, registry: &Arc<Registry>) -> Self {
        let (works, mut inbox) = mpsc::unbounded_channel::<Work>();
        let (ready, started) = std::sync::mpsc::channel();
        let (secrets, registry) = (secrets.clone(), registry.clone());
        let (finds, found) = watch::channel(Vec::new());
        let life = move || async move {
            let directory = tempfile::tempdir().expect("a directory");
            let store = Store::open(&StoreOptions {
                data_dir: directory.path().into(),
                capacity_bytes: Some(128 << 20),
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
            ready.send((node, shared, directory.path().to_owned())).expect("the test waits");
            while let Some(work) = inbox.recv().await {
                tokio::task::spawn_local(work(daemon.clone()));
            }
            store.close();
        };
        let thread = std::thread::spawn(move || ring::run_shard(Backend::Pool, life()).expect("a runtime"));
        let (node, shared, directory) = started.recv().expect("it starts");
        Self { node, shared, role, directory, finds, works: Some(works), thread: Some(thread) }
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
        self.works.as_ref().expect("alive").send(work).unwrap_or_else(|_| panic!("it has ended"));
        from.await.expect("the work does not panic")
    }

    /// Flips a byte of each block of the blob, where it lies in the store; how many there were.
    pub(super) fn rot(&self, registry: &Registry) -> usize {
        let whole = registry.layout().whole().expect("not empty");
        let beginning = |block| registry.of(block).slice(..BEGINNING_BYTES);
        let blocks: HashSet<_> = whole.blocks().map(beginning).collect();
        let slab = self.directory.join("store/slab-00000");
        let slab = File::options().read(true).write(true).open(slab).expect("a slab");
        let mut rotten = 0;
        for at in (0..slab.metadata().expect("its length").len()).step_by(BLOCK_BYTES as usize) {
            let mut found = [0; BEGINNING_BYTES];
            slab.read_exact_at(&mut found, at).expect("a block");
            if blocks.contains(&found[..]) {
                slab.write_all_at(&[!found[7]], at + 7).expect("writable");
                rotten += 1;
            }
        }
        rotten
    }

    fn kill(&mut self) {
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

#[expect(clippy::disallowed_methods, reason = "the test has this thread for itself")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Tells all where the seeds are, and waits until each knows each seed, and that it owns.
fn acquaint(nodes: &[TestNode]) {
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
        pause(Duration::from_millis(20));
    }
}

/// Some seeds and some peers that know each other; the owner of the registry's blob is the first, its deputy the second.
pub(super) fn nodes(
    secrets: &ClusterSecrets,
    seeds: usize,
    peers: usize,
    registry: &Arc<Registry>,
) -> Vec<TestNode> {
    let roles = std::iter::repeat_n(Role::Seed, seeds).chain(std::iter::repeat_n(Role::Peer, peers));
    let mut nodes: Vec<TestNode> = roles.map(|role| TestNode::start(secrets, role, registry)).collect();
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
