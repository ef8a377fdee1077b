//! A node's part in its cluster: what is made once, before the shards are, and what each of them is given.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use darter_engine::{PIECE_BYTES, Store};
use darter_transport::cluster::{Cluster, Parts, Shared};
use darter_transport::identity::Identities;
use darter_transport::lane::{BindError, Endpoint, Lanes, ShardSockets, bind};
use darter_transport::limits::Allowed;
use darter_transport::mesh::Introduction;
use darter_transport::node::Node;
use darter_transport::seeds::Seeds;
use darter_transport::wire::Text;
use tokio::sync::{Notify, watch};

use super::identity::{self, Keeper, NoIdentity};
use super::join;
use super::names::Names;
use super::owner_side::OwnerSide;
use crate::config::{ClusterLimits, ClusterSettings, JoinTarget};

/// Of the node.
pub(crate) struct NodePart {
    /// What the shards share.
    pub(crate) shared: Arc<Shared>,
    /// Renews the identity.
    keeper: Keeper,
    /// Where it is looked for seeds, and where the shards are told what was found.
    targets: Vec<JoinTarget>,
    found: watch::Sender<Vec<SocketAddr>>,
    /// For the first shards; there are never more than 255 that other nodes reach.
    shards: Vec<ShardPart>,
}

/// Of a shard.
#[derive(Debug)]
pub(crate) struct ShardPart {
    sockets: ShardSockets,
    identities: Arc<Identities>,
    lanes: Lanes,
    introduction: Introduction,
    shared: Arc<Shared>,
    found: watch::Receiver<Vec<SocketAddr>>,
}

/// Why a node cannot be a part of its cluster. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NoPart {
    /// Files.
    #[error(transparent)]
    Identity(#[from] NoIdentity),
    /// A port.
    #[error(transparent)]
    Listen(#[from] BindError),
}

impl NodePart {
    /// Reads the identity and binds the sockets of `shards` shards; nobody is spoken to yet.
    ///
    /// # Errors
    /// See [`NoPart`].
    pub(crate) fn open(
        cluster: &ClusterSettings,
        data_dir: &Path,
        store: &Store,
        shards: usize,
    ) -> Result<Self, NoPart> {
        let (identities, keeper) = identity::open(cluster, data_dir)?;
        let shards = u8::try_from(shards).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MAX);
        let sockets = bind(cluster.listen, shards)?;
        let bound = sockets.first().and_then(|first| first.local_addr().ok()).unwrap_or(cluster.listen);
        let address = cluster.advertised(bound);
        let own = identities.current().own();
        let capacity_slots = store.stats().capacity_bytes / u64::from(PIECE_BYTES);
        let capacity_slots = u32::try_from(capacity_slots).unwrap_or(u32::MAX);
        let node = Node { id: own.id, address, zone: cluster.zone.clone() };
        let seeds = Seeds::new(node, capacity_slots, own.role);
        let shared = Shared::new(seeds, chance_seed());
        let introduction = Introduction {
            address,
            zone: cluster.zone.clone(),
            capacity_slots,
            shards: shards.get(),
            software: Text::cut(concat!("darter ", env!("CARGO_PKG_VERSION"))),
        };
        let (found, found_here) = watch::channel(Vec::new());
        let part = |sockets| ShardPart {
            sockets,
            identities: identities.clone(),
            lanes: cluster.lanes,
            introduction: introduction.clone(),
            shared: shared.clone(),
            found: found_here.clone(),
        };
        let shards = sockets.into_iter().rev().map(part).collect();
        tracing::info!(node = %own.id, address = %address, role = ?own.role, zone = %*cluster.zone, "other nodes reach this one");
        Ok(Self { shared, keeper, targets: cluster.join.clone(), found, shards })
    }

    /// Looks for seeds, keeps the identity fresh and the limits as they are configured, for as long as the node runs. The
    /// identity's files are looked at when it is `asked` for.
    pub(crate) async fn stay(self, asked: Arc<Notify>, limits: watch::Receiver<Option<ClusterLimits>>) {
        let (targets, found, own) = (self.targets, self.found, vec![self.shared.own().address]);
        let following = async {
            // A seed that was told of nobody need not wait for names: it is the first one as soon as nobody will tell it.
            if !targets.is_empty() {
                join::follow(targets, own, Names::default(), found).await;
            }
        };
        tokio::join!(following, self.keeper.keep(asked), follow_limits(&self.shared, limits));
    }

    /// The part of the next shard.
    pub(crate) fn next_shard(&mut self) -> Option<ShardPart> {
        self.shards.pop()
    }
}

impl ShardPart {
    /// Begins to answer other nodes and to ask them. To be called on the shard.
    ///
    /// # Errors
    /// The system does not give what a socket needs.
    pub(crate) fn start(self, origin: OwnerSide) -> io::Result<Rc<Cluster>> {
        let endpoint = Endpoint::start(self.sockets, self.identities, self.lanes)?;
        let parts = Parts {
            endpoint,
            introduction: self.introduction,
            store: origin.store.clone(),
            origin: Rc::new(origin),
            chance_seed: chance_seed(),
            found: self.found,
        };
        Ok(Cluster::start(self.shared, parts))
    }
}

async fn follow_limits(shared: &Shared, mut limits: watch::Receiver<Option<ClusterLimits>>) {
    loop {
        let now = *limits.borrow_and_update();
        if let Some(ClusterLimits { upload_bytes_per_s, download_bytes_per_s, concurrent_uploads }) = now {
            shared.books().limits().set(Allowed {
                upload_bytes_per_s: upload_bytes_per_s.unwrap_or(0),
                download_bytes_per_s: download_bytes_per_s.unwrap_or(0),
                uploads: u32::try_from(concurrent_uploads).unwrap_or(u32::MAX),
            });
        }
        if limits.changed().await.is_err() {
            return;
        }
    }
}

/// The standard library's own source of randomness: nodes must only not all choose alike, and it is no secret.
fn chance_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
