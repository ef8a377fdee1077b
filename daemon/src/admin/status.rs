//! `GET /api/v1/status`: how the node does, in one small answer that may be asked for each second.
//!
//! Bytes and requests are counted since the start and `at_ms` says when: who asks twice knows the rate. What needs an
//! operator's eye is said in words, by [`concerns`](super::concerns).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use darter_engine::store::StoreStats;
use darter_engine::{BLOCK_BYTES, Store};
use darter_transport::cluster::Shared;
use serde::{Deserialize, Serialize};

use super::api::ScrubInfo;
use super::concerns::ConcernInfo;
use super::health::Health;
use super::history::Sample;
use super::peers::{NodeInfo, PeersInfo, RoleInfo, StandingInfo};
use crate::fetch::{Movement, Moving, WeakFetches};
use crate::front::{self, recent::Recent};
use crate::metrics::{Fates, Metrics};

/// Where the numbers of the shards come from.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) front: Arc<front::Shared>,
    pub(crate) fetches: WeakFetches,
    pub(crate) health: Health,
    /// That the front may have.
    pub(crate) connections_max: usize,
}

/// `GET /api/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusInfo {
    pub(crate) version: String,
    /// `ring` or `pool`.
    pub(crate) io: String,
    /// Milliseconds since the daemon's start, by a clock that is never put back.
    pub(crate) at_ms: u64,
    /// In a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<OwnInfo>,
    /// What needs an operator's eye, the worst first; empty if all is well.
    pub(crate) concerns: Vec<ConcernInfo>,
    pub(crate) store: HeldInfo,
    pub(crate) scrub: ScrubInfo,
    /// Since the start.
    pub(crate) bytes: BytesInfo,
    /// Since the start.
    pub(crate) requests: RequestsInfo,
    pub(crate) connections: ConnectionsInfo,
    pub(crate) fetches: FetchesInfo,
}

/// This node in its cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OwnInfo {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) role: RoleInfo,
    pub(crate) address: SocketAddr,
    pub(crate) zone: String,
    pub(crate) standing: StandingInfo,
    /// That hold a place in the cluster, this node with them.
    pub(crate) seeds: u64,
    /// Other nodes with an open connection to this one.
    pub(crate) connected: u64,
}

/// The store in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldInfo {
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) contents: u64,
    /// Since the start.
    pub(crate) evicted_pieces: u64,
    /// Blocks that were dropped because they were not what was written, since the start.
    pub(crate) bad_blocks: u64,
    /// That take no new pieces until the next start.
    pub(crate) slabs_out_of_service: u64,
    /// Block buffers in use, and how many may be.
    pub(crate) buffer_bytes: u64,
    pub(crate) buffer_bytes_max: u64,
    /// Served and not kept, since the start.
    pub(crate) unkept_bytes: u64,
}

/// Bytes of contents that have moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BytesInfo {
    /// To clients, from the store.
    pub(crate) cache: u64,
    /// To clients, just come from the network.
    pub(crate) fetched: u64,
    /// To clients, past the store.
    pub(crate) passed: u64,
    /// From other nodes.
    pub(crate) peers: u64,
    /// From registries.
    pub(crate) origin: u64,
    /// To other nodes.
    pub(crate) given: u64,
}

/// Requests of clients by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestsInfo {
    /// All of the answer was in the store. One that goes on after its beginning is counted at its end.
    pub(crate) hit: u64,
    /// Something had to be fetched, for its beginning or later.
    pub(crate) fetched: u64,
    /// The registry's own answer was handed through.
    pub(crate) passed: u64,
    /// For a reason in the request, or for what the registry says of it.
    pub(crate) refused: u64,
    /// For trouble of this node, the cluster or a registry.
    pub(crate) failed: u64,
}

/// Clients' connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionsInfo {
    pub(crate) open: u64,
    pub(crate) max: u64,
    /// Closed because too many were open, since the start.
    pub(crate) shed: u64,
}

/// What is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FetchesInfo {
    pub(crate) contents: u64,
    /// At least: of many contents, those of some.
    pub(crate) coming_bytes: u64,
}

impl Watched {
    pub(super) fn recent(&self) -> &Recent {
        self.front.recent()
    }

    /// What has moved until now, `up_for` after the start.
    pub(super) fn sample(&self, store: &Store, cluster: Option<&Shared>, up_for: Duration) -> Sample {
        let moved = self.metrics.moved();
        let peers = cluster.map(|cluster| cluster.peers().totals()).unwrap_or_default();
        let Fates { hit, fetched, passed, refused, failed } = self.metrics.fates();
        Sample {
            at_ms: u64::try_from(up_for.as_millis()).unwrap_or(u64::MAX),
            bytes: BytesInfo {
                cache: moved.hit_bytes,
                fetched: moved.fetched_bytes,
                passed: moved.passed_bytes,
                peers: peers.received_bytes,
                origin: moved.origin_bytes,
                given: peers.sent_bytes,
            },
            requests: RequestsInfo { hit, fetched, passed, refused, failed },
            unkept_bytes: moved.unkept_bytes,
            shed: moved.connections_shed,
            bad_blocks: bad_blocks(&store.stats()),
        }
    }

    pub(super) fn connections(&self) -> ConnectionsInfo {
        let moved = self.metrics.moved();
        ConnectionsInfo {
            open: moved.connections,
            max: self.connections_max as u64,
            shed: moved.connections_shed,
        }
    }
}

impl OwnInfo {
    pub(super) fn of(cluster: &Shared) -> Self {
        let seeds = cluster.seeds();
        let NodeInfo { id, role, address, zone } = PeersInfo::own(cluster);
        Self {
            id,
            role,
            address,
            zone,
            standing: seeds.standing().into(),
            seeds: seeds.live().len() as u64,
            connected: cluster.peers().totals().nodes,
        }
    }
}

impl HeldInfo {
    /// `unkept_bytes`: what the fetches have counted.
    pub(super) fn of(store: &Store, unkept_bytes: u64) -> Self {
        let stats = store.stats();
        Self {
            capacity_bytes: stats.capacity_bytes,
            used_bytes: stats.used_bytes,
            contents: stats.contents,
            evicted_pieces: stats.evicted_pieces,
            bad_blocks: bad_blocks(&stats),
            slabs_out_of_service: stats.slabs_out_of_service,
            buffer_bytes: stats.buffer_bytes,
            buffer_bytes_max: store.pool().limit() as u64 * u64::from(BLOCK_BYTES),
            unkept_bytes,
        }
    }
}

/// On the disk, found when they were to be served, by the scrub or by a verification.
fn bad_blocks(stats: &StoreStats) -> u64 {
    stats.checks_failed + stats.scrubbed_bad_blocks
}

impl From<&Movement> for FetchesInfo {
    fn from(movement: &Movement) -> Self {
        let bytes = |moving: &Moving| {
            let layout = moving.content.layout();
            let blocks = moving.blocks.iter().filter_map(|number| layout.block(*number));
            blocks.map(|block| u64::from(layout.block_bytes(block))).sum::<u64>()
        };
        Self { contents: movement.contents as u64, coming_bytes: movement.shown.iter().map(bytes).sum() }
    }
}
