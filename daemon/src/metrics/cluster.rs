//! What is counted of other nodes, taken over at each scrape.

use std::collections::HashSet;

use darter_transport::cluster::Shared;
use darter_transport::node::{NodeId, Role};
use darter_transport::peers::Peer;
use darter_transport::seeds::Standing;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{raise, set};

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Without a cluster all zero. No label names a node: there may be thousands, and `darter peers` tells of each.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    configured: Gauge,
    joined: Gauge,
    seeds: Gauge,
    nodes: Gauge,
    peers: Family<Labels<2>, Gauge>,
    connections: Family<Labels<1>, Gauge>,
    transfers: Family<Labels<1>, Gauge>,
    sent_bytes: Counter,
    received_bytes: Counter,
    pulled_bytes: Family<Labels<1>, Counter>,
    late_bytes: Counter,
    wrong_blocks: Counter,
    left_to_origin_blocks: Counter,
}

impl Cluster {
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("cluster_configured", "1 if this node is to be in a cluster", &self.configured),
            ("cluster_joined", "1 while this node knows the seeds of its cluster", &self.joined),
            ("cluster_seeds", "Seeds that hold a place in the cluster, this node with them", &self.seeds),
            ("peers_connected", "Other nodes with a connection to this one", &self.nodes),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register("peers", "Other nodes, by how they do", self.peers.clone());
        registry.register("peer_connections", "Connections with other nodes", self.connections.clone());
        registry.register(
            "peer_transfers",
            "Requests for blocks under way: of other nodes to this one, and of this one to others",
            self.transfers.clone(),
        );
        for (name, help, counter) in [
            ("peer_sent", "Bytes of blocks to other nodes", &self.sent_bytes),
            (
                "peer_received",
                "Bytes of blocks from other nodes, whatever became of them",
                &self.received_bytes,
            ),
            ("peer_late", "Bytes of blocks from other nodes that were here already", &self.late_bytes),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        registry.register_with_unit(
            "peer_pulled",
            "Bytes of blocks from other nodes that were wanted and right, by who sent them",
            Unit::Bytes,
            self.pulled_bytes.clone(),
        );
        // There without a cluster too.
        self.tell(&Tally::default(), [("upload", 0), ("download", 0)]);
        self.tell_pulled(0, 0);
        for (name, help, counter) in [
            ("peer_wrong_blocks", "Blocks from other nodes that were not those attested", &self.wrong_blocks),
            (
                "peer_left_to_origin_blocks",
                "Blocks wanted of the cluster for which this node was sent to the registry",
                &self.left_to_origin_blocks,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    pub(super) fn take_over(&self, cluster: &Shared) {
        let (seeds, totals, counted) = (cluster.seeds(), cluster.peers().totals(), cluster.counters().now());
        let knows_seeds = matches!(seeds.standing(), Standing::Alone | Standing::Joined);
        self.configured.set(1);
        set(&self.joined, u64::from(knows_seeds));
        set(&self.seeds, seeds.live().len() as u64);
        set(&self.nodes, totals.nodes);
        let uploads = u64::from(cluster.books().limits().uploads_now());
        self.tell(&Tally::of(cluster), [("upload", uploads), ("download", counted.requests_now)]);
        raise(&self.sent_bytes, totals.sent_bytes);
        raise(&self.received_bytes, totals.received_bytes);
        self.tell_pulled(counted.from_owner_bytes, counted.from_parents_bytes);
        raise(&self.late_bytes, counted.late_bytes);
        raise(&self.wrong_blocks, counted.wrong_blocks);
        raise(&self.left_to_origin_blocks, counted.left_to_origin_blocks);
    }

    fn tell(&self, tally: &Tally, transfers: [(&'static str, u64); 2]) {
        for (role, states) in [("seed", &tally.seeds), ("peer", &tally.peers)] {
            for (state, nodes) in ["connected", "known", "leaving"].into_iter().zip(states) {
                set(&self.peers.get_or_create(&[("role", role), ("state", state)]), *nodes);
            }
        }
        for (lane, connections) in ["quic", "tcp"].into_iter().zip(&tally.connections) {
            set(&self.connections.get_or_create(&[("lane", lane)]), *connections);
        }
        for (direction, transfers) in transfers {
            set(&self.transfers.get_or_create(&[("direction", direction)]), transfers);
        }
    }

    fn tell_pulled(&self, from_owner_bytes: u64, from_parents_bytes: u64) {
        for (from, bytes) in [("owner", from_owner_bytes), ("parent", from_parents_bytes)] {
            raise(&self.pulled_bytes.get_or_create(&[("from", from)]), bytes);
        }
    }
}

/// How many other nodes there are of each kind.
#[derive(PartialEq, Eq, Default, Debug)]
struct Tally {
    /// Connected; known and not connected; leaving.
    seeds: [u64; 3],
    peers: [u64; 3],
    /// By QUIC and by TCP.
    connections: [u64; 2],
}

impl Tally {
    fn of(cluster: &Shared) -> Self {
        let seen = cluster.peers().seen();
        let met: HashSet<NodeId> = seen.iter().map(|peer| peer.node.id).collect();
        let own = cluster.own().id;
        let told = cluster.seeds().live().into_iter().map(|seed| seed.node.id);
        let not_met = told.filter(|id| *id != own && !met.contains(id)).count();
        let mut tally = Self::default();
        tally.seeds[1] = not_met as u64;
        for Peer { role, quic_sessions, tcp_sessions, is_leaving, .. } in seen {
            let state = match quic_sessions + tcp_sessions {
                _ if is_leaving => 2,
                0 => 1,
                _ => 0,
            };
            let states = if role == Role::Seed { &mut tally.seeds } else { &mut tally.peers };
            states[state] += 1;
            tally.connections[0] += u64::from(quic_sessions);
            tally.connections[1] += u64::from(tcp_sessions);
        }
        tally
    }
}
