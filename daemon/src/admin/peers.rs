//! `GET /api/v1/peers`: who is in the cluster, as this node sees it, and what flows.
//!
//! The transport counts what all shards see; the seeds that there are come to it. Bytes are counted, and `at_ms` says
//! when: who asks twice knows the rate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use darter_transport::cluster::Shared;
use darter_transport::node::{Node, NodeId, Role};
use darter_transport::peers::Peer;
use darter_transport::seeds::Standing;
use serde::{Deserialize, Serialize};

/// Other nodes in one answer; of more, those with the lowest ids.
pub(crate) const PEERS_MAX: usize = 16_384;

/// `GET /api/v1/peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeersInfo {
    /// Milliseconds by a clock that is never put back; between two answers of one run of the daemon.
    pub(crate) at_ms: u64,
    /// This node.
    pub(crate) node: NodeInfo,
    pub(crate) standing: StandingInfo,
    /// The others, in the order of their ids.
    pub(crate) peers: Vec<PeerInfo>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeInfo {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) role: RoleInfo,
    /// Where it takes connections.
    pub(crate) address: SocketAddr,
    /// Empty where nobody has said.
    pub(crate) zone: String,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerInfo {
    #[serde(flatten)]
    pub(crate) node: NodeInfo,
    pub(crate) state: StateInfo,
    /// Of the connections that are open: `quic`, `tcp`, both or none.
    pub(crate) lanes: Vec<LaneInfo>,
    /// That are open.
    pub(crate) connections: u32,
    /// Of blocks, from this node to it, since this node's start or since it was forgotten: ten minutes after the last
    /// connection.
    pub(crate) sent_bytes: u64,
    /// From it to this node.
    pub(crate) received_bytes: u64,
}

/// What a node's certificate lets it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleInfo {
    Peer,
    Seed,
    /// From a later version.
    #[serde(other)]
    Other,
}

/// Where this node stands in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StandingInfo {
    /// It has reached no seed yet, and goes to registries by itself.
    Joining,
    /// A seed without others.
    Alone,
    /// It knows the seeds.
    Joined,
    Leaving,
    /// From a later version.
    #[serde(other)]
    Other,
}

/// How another node does, as far as this one knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StateInfo {
    /// Others tell of it, and no connection is open.
    Known,
    /// A connection is open.
    Connected,
    /// It has said that it goes.
    Leaving,
    /// From a later version.
    #[serde(other)]
    Other,
}

/// A way in which nodes are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LaneInfo {
    Quic,
    Tcp,
    /// From a later version.
    #[serde(other)]
    Other,
}

impl PeersInfo {
    /// What this node knows in this moment. `up_for`: how long the daemon has run.
    pub(crate) fn of(shared: &Shared, up_for: Duration) -> Self {
        let seeds = shared.seeds();
        let own = (seeds.own(), own_role(shared));
        let told = seeds.live().into_iter().map(|seed| seed.node);
        Self::new(up_for, own, seeds.standing().into(), shared.peers().seen(), told)
    }

    /// This node.
    pub(super) fn own(shared: &Shared) -> NodeInfo {
        NodeInfo::of(shared.seeds().own(), own_role(shared))
    }

    /// The same with `limit` others at most: those that have moved most, and of such as have moved the same seeds.
    pub(super) fn with_at_most(mut self, limit: usize) -> Self {
        if self.peers.len() > limit {
            let moved = |peer: &PeerInfo| peer.sent_bytes.saturating_add(peer.received_bytes);
            self.peers.sort_by_key(|peer| std::cmp::Reverse((moved(peer), peer.node.role)));
            self.peers.truncate(limit);
            self.peers.sort_by(|one, other| one.node.id.cmp(&other.node.id));
        }
        self
    }

    /// `seen`: the nodes that are or were connected, each once; `seeds`: those that there are, connected or not.
    fn new(
        up_for: Duration,
        own: (&Node, Role),
        standing: StandingInfo,
        seen: Vec<Peer>,
        seeds: impl Iterator<Item = Node>,
    ) -> Self {
        let mut peers: BTreeMap<NodeId, PeerInfo> =
            seen.into_iter().map(|peer| (peer.node.id, PeerInfo::of(&peer))).collect();
        for seed in seeds.filter(|seed| seed.id != own.0.id) {
            // What the node says of itself counts more than what others say.
            peers.entry(seed.id).or_insert_with(|| PeerInfo::told(NodeInfo::of(&seed, Role::Seed)));
        }
        Self {
            at_ms: u64::try_from(up_for.as_millis()).unwrap_or(u64::MAX),
            node: NodeInfo::of(own.0, own.1),
            standing,
            peers: peers.into_values().take(PEERS_MAX).collect(),
        }
    }
}

impl PeerInfo {
    fn of(peer: &Peer) -> Self {
        let connections = peer.quic_sessions + peer.tcp_sessions;
        let lanes = [(LaneInfo::Quic, peer.quic_sessions), (LaneInfo::Tcp, peer.tcp_sessions)];
        Self {
            state: match connections {
                _ if peer.is_leaving => StateInfo::Leaving,
                0 => StateInfo::Known,
                _ => StateInfo::Connected,
            },
            lanes: lanes.into_iter().filter(|(_, open)| *open > 0).map(|(lane, _)| lane).collect(),
            connections,
            sent_bytes: peer.sent_bytes,
            received_bytes: peer.received_bytes,
            ..Self::told(NodeInfo::of(&peer.node, peer.role))
        }
    }

    /// Of a node that was never connected.
    fn told(node: NodeInfo) -> Self {
        let (state, lanes) = (StateInfo::Known, Vec::new());
        Self { node, state, lanes, connections: 0, sent_bytes: 0, received_bytes: 0 }
    }
}

fn own_role(shared: &Shared) -> Role {
    if shared.seeds().is_seed() { Role::Seed } else { Role::Peer }
}

/// All 64 hexadecimal digits.
pub(super) fn full_id(id: &NodeId) -> String {
    id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl NodeInfo {
    fn of(node: &Node, role: Role) -> Self {
        Self {
            id: full_id(&node.id),
            role: match role {
                Role::Peer => RoleInfo::Peer,
                Role::Seed => RoleInfo::Seed,
            },
            address: node.address,
            zone: node.zone.to_string(),
        }
    }
}

impl From<Standing> for StandingInfo {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Joining => Self::Joining,
            Standing::Alone => Self::Alone,
            Standing::Joined => Self::Joined,
            Standing::Leaving => Self::Leaving,
        }
    }
}

#[cfg(test)]
mod tests {
    use darter_transport::wire::Text;

    use super::*;

    fn node(number: u8) -> Node {
        let address = ([10, 0, 0, number], 65000).into();
        Node { id: NodeId::from_bytes([number; 32]), address, zone: Text::cut("a") }
    }

    /// With so many sessions of each lane.
    fn peer(number: u8, quic_sessions: u32, tcp_sessions: u32) -> Peer {
        Peer {
            node: node(number),
            role: Role::Peer,
            quic_sessions,
            tcp_sessions,
            is_leaving: false,
            sent_bytes: 1,
            received_bytes: 10,
        }
    }

    fn info(seen: Vec<Peer>, seeds: Vec<Node>) -> Vec<PeerInfo> {
        let (time, own) = (Duration::from_millis(7), node(1));
        let info = PeersInfo::new(time, (&own, Role::Seed), StandingInfo::Joined, seen, seeds.into_iter());
        assert_eq!((info.at_ms, info.node.role, &*info.node.zone), (7, RoleInfo::Seed, "a"));
        info.peers
    }

    #[test]
    fn who_is_connected_and_who_is_told_of_is_there_once() {
        let leaving = Peer { is_leaving: true, ..peer(5, 1, 0) };
        let other_zone = Node { zone: Text::cut("old"), ..node(3) };
        let peers = info(
            vec![peer(3, 2, 1), peer(4, 0, 0), leaving],
            // This node itself is not another one.
            vec![node(1), node(2), other_zone],
        );
        let of = |peer: &PeerInfo| (peer.state, peer.connections, peer.received_bytes);
        assert_eq!(
            peers.iter().map(of).collect::<Vec<_>>(),
            [
                (StateInfo::Known, 0, 0),
                (StateInfo::Connected, 3, 10),
                (StateInfo::Known, 0, 10),
                (StateInfo::Leaving, 1, 10)
            ]
        );
        assert_eq!((peers[0].node.role, &*peers[0].node.id), (RoleInfo::Seed, &*"02".repeat(32)));
        assert_eq!((&*peers[1].node.zone, peers[1].node.role), ("a", RoleInfo::Peer), "as it says itself");
        assert_eq!(peers[1].lanes, [LaneInfo::Quic, LaneInfo::Tcp]);
        assert_eq!(peers[3].lanes, [LaneInfo::Quic]);
    }

    #[test]
    fn an_answer_is_bounded() {
        let many = (0..PEERS_MAX as u32 + 5).map(|number| {
            let mut id = [9; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            Peer { node: Node { id: NodeId::from_bytes(id), ..node(9) }, ..peer(9, 1, 0) }
        });
        let peers = info(many.collect(), Vec::new());
        assert_eq!(peers.len(), PEERS_MAX);
        assert!(peers[0].node.id.starts_with("00000000"), "{}", peers[0].node.id);
    }

    #[test]
    fn who_has_moved_most_is_told_of_first() {
        let moved = |number, sent_bytes| Peer { sent_bytes, received_bytes: 0, ..peer(number, 1, 0) };
        let a_seed = Peer { role: Role::Seed, ..moved(7, 1) };
        let seen = vec![moved(3, 5), moved(4, 0), moved(5, 9), moved(6, 7), a_seed];
        let (time, own) = (Duration::ZERO, node(1));
        let seeds = vec![node(2)].into_iter();
        let info = PeersInfo::new(time, (&own, Role::Peer), StandingInfo::Joined, seen, seeds);
        let ids = |limit| -> Vec<String> {
            let peers = info.clone().with_at_most(limit).peers;
            peers.into_iter().map(|peer| peer.node.id[..2].to_owned()).collect()
        };
        assert_eq!(ids(9), ["02", "03", "04", "05", "06", "07"]);
        assert_eq!(ids(2), ["05", "06"], "a seed that has moved little is none of them");
        assert_eq!(ids(5), ["02", "03", "05", "06", "07"], "of those that have moved nothing, a seed");
    }

    #[test]
    fn the_json_is_flat_and_what_is_new_is_read() {
        let peers = info(vec![peer(2, 1, 0)], Vec::new());
        let json = serde_json::to_value(&peers[0]).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "id": "02".repeat(32), "role": "peer", "address": "10.0.0.2:65000", "zone": "a", "state": "connected",
                "lanes": ["quic"], "connections": 1, "sent_bytes": 1, "received_bytes": 10,
            })
        );
        let text = json.to_string().replace("connected", "dancing").replace("quic", "pigeon");
        let read: PeerInfo = serde_json::from_str(&text).unwrap();
        assert_eq!((read.state, &*read.lanes), (StateInfo::Other, &[LaneInfo::Other][..]));
    }
}
