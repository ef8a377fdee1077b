//! `GET /api/v1/peers`: who is in the cluster, as this node sees it, and what flows.
//!
//! The daemon's shards each tell what they [have seen](Seen); [`PeersInfo::merged`] makes one answer of it. Bytes are
//! counted, and `at_ms` says when: who asks twice knows the rate. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use darter_transport::lane::LaneKind;
use darter_transport::node::{Node, NodeId, Role};
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
    /// Of blocks, from this node to it, since this node's start or since it was last heard of.
    pub(crate) sent_bytes: u64,
    /// From it to this node.
    pub(crate) received_bytes: u64,
}

/// What a node's certificate lets it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What one shard, or the table of seeds, says of another node. A node may be seen by several, and more than once.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) node: Node,
    pub(crate) role: Role,
    /// Of a connection that is open; `None`: it was, or it is only told of.
    pub(crate) lane: Option<LaneKind>,
    pub(crate) is_leaving: bool,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

impl PeersInfo {
    /// One answer of what all have seen. `since_start`: when.
    #[cfg_attr(not(test), expect(dead_code, reason = "what flows between nodes is not counted yet"))]
    pub(crate) fn merged(
        since_start: Duration,
        own: (&Node, Role),
        standing: StandingInfo,
        seen: impl IntoIterator<Item = Seen>,
    ) -> Self {
        let mut peers: BTreeMap<NodeId, PeerInfo> = BTreeMap::new();
        for seen in seen.into_iter().filter(|seen| seen.node.id != own.0.id) {
            let peer = peers.entry(seen.node.id).or_insert_with(|| PeerInfo {
                node: NodeInfo::of(&seen.node, seen.role),
                state: StateInfo::Known,
                lanes: Vec::new(),
                connections: 0,
                sent_bytes: 0,
                received_bytes: 0,
            });
            if let Some(lane) = seen.lane {
                // What the node says of itself counts more than what others say.
                peer.node = NodeInfo::of(&seen.node, seen.role);
                peer.connections += 1;
                peer.lanes.push(lane.into());
                peer.lanes.sort_unstable();
                peer.lanes.dedup();
                peer.state = peer.state.max(StateInfo::Connected);
            }
            if seen.is_leaving {
                peer.state = StateInfo::Leaving;
            }
            peer.sent_bytes = peer.sent_bytes.saturating_add(seen.sent_bytes);
            peer.received_bytes = peer.received_bytes.saturating_add(seen.received_bytes);
            if peers.len() > PEERS_MAX {
                peers.pop_last();
            }
        }
        Self {
            at_ms: u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX),
            node: NodeInfo::of(own.0, own.1),
            standing,
            peers: peers.into_values().collect(),
        }
    }
}

impl NodeInfo {
    fn of(node: &Node, role: Role) -> Self {
        Self {
            id: node.id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
            role: match role {
                Role::Peer => RoleInfo::Peer,
                Role::Seed => RoleInfo::Seed,
            },
            address: node.address,
            zone: node.zone.to_string(),
        }
    }
}

impl From<LaneKind> for LaneInfo {
    fn from(lane: LaneKind) -> Self {
        match lane {
            LaneKind::Quic => Self::Quic,
            LaneKind::Tcp => Self::Tcp,
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

    fn seen(number: u8, lane: Option<LaneKind>, sent_bytes: u64) -> Seen {
        let (role, is_leaving) = (Role::Peer, false);
        Seen { node: node(number), role, lane, is_leaving, sent_bytes, received_bytes: 10 * sent_bytes }
    }

    fn merged(seen: Vec<Seen>) -> Vec<PeerInfo> {
        let time = Duration::from_millis(7);
        let info = PeersInfo::merged(time, (&node(1), Role::Seed), StandingInfo::Joined, seen);
        assert_eq!((info.at_ms, info.node.role, &*info.node.zone), (7, RoleInfo::Seed, "a"));
        info.peers
    }

    #[test]
    fn what_several_shards_see_is_one_node() {
        let peers = merged(vec![
            seen(3, Some(LaneKind::Tcp), 1),
            seen(2, None, 2),
            seen(3, Some(LaneKind::Quic), 3),
            seen(3, None, 4),
            // Itself.
            seen(1, None, 5),
        ]);
        let of = |peer: &PeerInfo| (peer.state, peer.connections, peer.sent_bytes, peer.received_bytes);
        assert_eq!(
            peers.iter().map(of).collect::<Vec<_>>(),
            [(StateInfo::Known, 0, 2, 20), (StateInfo::Connected, 2, 8, 80),]
        );
        assert_eq!(peers[1].lanes, [LaneInfo::Quic, LaneInfo::Tcp]);
        assert_eq!(peers[1].node.id, "03".repeat(32));
    }

    #[test]
    fn what_a_node_says_of_itself_counts_more() {
        let told = Seen { node: Node { zone: Text::cut("old"), ..node(2) }, ..seen(2, None, 0) };
        let own = seen(2, Some(LaneKind::Quic), 0);
        for seen in [vec![told.clone(), own.clone()], vec![own.clone(), told.clone()]] {
            assert_eq!(merged(seen)[0].node.zone, "a");
        }
        let leaving = Seen { is_leaving: true, ..own.clone() };
        for seen in [vec![leaving.clone(), own.clone()], vec![own, leaving]] {
            assert_eq!(merged(seen)[0].state, StateInfo::Leaving);
        }
    }

    #[test]
    fn an_answer_is_bounded() {
        let many = (0..PEERS_MAX as u32 + 5).map(|number| {
            let mut id = [9; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            Seen { node: Node { id: NodeId::from_bytes(id), ..node(9) }, ..seen(9, None, 0) }
        });
        let peers = merged(many.collect());
        assert_eq!(peers.len(), PEERS_MAX);
        assert!(peers[0].node.id.starts_with("00000000"), "{}", peers[0].node.id);
    }

    #[test]
    fn the_json_is_flat_and_what_is_new_is_read() {
        let peers = merged(vec![seen(2, Some(LaneKind::Quic), 1)]);
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
