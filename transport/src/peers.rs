//! The other nodes that this one is connected with, on all its shards, and what moves between them.
//!
//! Each session counts the bytes of blocks that pass on it in the `Flow` of its node, which all sessions with that node
//! share. A node without a session is remembered for [`KEPT`], so that who looks twice sees what has moved meanwhile;
//! then it is forgotten, and what it has moved stays in the [totals](Peers::totals). The shards' short sections under
//! the lock are when a session begins and when it ends; counting takes none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::lane::LaneKind;
use crate::node::{Node, NodeId, Role};
use crate::session::Session;

/// How long a node without a session is remembered: longer than people look at one thing, and than a restart takes.
pub const KEPT: Duration = Duration::from_secs(600);
/// Nodes without a session that are remembered; of more, the one that went first is forgotten. Those with one are limited
/// by the [meshes](crate::mesh::SESSIONS_MAX).
pub const GONE_MAX: usize = 1024;

/// One of a node, for all its shards. See the module.
#[derive(Debug, Default)]
pub struct Peers(Mutex<State>);

/// Another node, as this one knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// As it said itself when the last session began.
    pub node: Node,
    /// As its certificate said.
    pub role: Role,
    /// Sessions by QUIC that stand, those of all shards together.
    pub quic_sessions: u32,
    /// Those by TCP.
    pub tcp_sessions: u32,
    /// It has said that it goes, and has not come back.
    pub is_leaving: bool,
    /// Bytes of blocks from this node to it since it was not remembered.
    pub sent_bytes: u64,
    /// From it to this node.
    pub received_bytes: u64,
}

/// All nodes together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Nodes with a session.
    pub nodes: u64,
    /// Their sessions.
    pub sessions: u64,
    /// Bytes of blocks to other nodes since this one's start, those with them that nobody remembers.
    pub sent_bytes: u64,
    /// From other nodes.
    pub received_bytes: u64,
}

/// Bytes of blocks to and from one node.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Flow {
    /// These were given to the connection.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// These have come, right or not.
    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn now(&self) -> (u64, u64) {
        (self.sent_bytes.load(Ordering::Relaxed), self.received_bytes.load(Ordering::Relaxed))
    }
}

impl Peers {
    /// The nodes that are connected or remembered, in no order.
    #[must_use]
    pub fn seen(&self) -> Vec<Peer> {
        let mut state = self.state();
        state.forget(Instant::now());
        state.nodes.values().map(Known::seen).collect()
    }

    /// All nodes together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.state().totals()
    }

    /// Whether another node is connected now.
    pub(crate) fn has_company(&self) -> bool {
        self.state().nodes.values().any(|known| known.gone_at.is_none())
    }

    /// A session has begun: what passes on it is counted from now on.
    pub(crate) fn up(&self, session: &Session) {
        let flow = self.state().meet(session.node(), session.role(), session.lane());
        session.count_in(flow);
    }

    /// It has ended; once for each [`up`](Self::up).
    pub(crate) fn down(&self, session: &Session) {
        self.state().part(&session.node().id, session.lane(), Instant::now());
    }

    /// The node has said that it goes.
    pub(crate) fn leaves(&self, id: &NodeId) {
        if let Some(known) = self.state().nodes.get_mut(id) {
            known.is_leaving = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<NodeId, Known>,
    /// What those have moved that are forgotten: sent, received.
    forgotten_bytes: (u64, u64),
}

#[derive(Debug)]
struct Known {
    node: Node,
    role: Role,
    quic_sessions: u32,
    tcp_sessions: u32,
    is_leaving: bool,
    /// When the last session ended; `None` while there is one.
    gone_at: Option<Instant>,
    flow: Arc<Flow>,
}

impl State {
    fn meet(&mut self, node: &Node, role: Role, lane: LaneKind) -> Arc<Flow> {
        let known = self.nodes.entry(node.id).or_insert_with(|| Known {
            node: node.clone(),
            role,
            quic_sessions: 0,
            tcp_sessions: 0,
            is_leaving: false,
            gone_at: None,
            flow: Arc::default(),
        });
        (known.node, known.role) = (node.clone(), role);
        (known.is_leaving, known.gone_at) = (false, None);
        *known.sessions_by(lane) += 1;
        known.flow.clone()
    }

    fn part(&mut self, id: &NodeId, lane: LaneKind, now: Instant) {
        let Some(known) = self.nodes.get_mut(id) else { return };
        let sessions = known.sessions_by(lane);
        *sessions = sessions.saturating_sub(1);
        if known.sessions() == 0 {
            known.gone_at = Some(now);
            self.forget(now);
        }
    }

    /// Forgets who has been gone for [`KEPT`], and of more than [`GONE_MAX`] who has been for longest.
    fn forget(&mut self, now: Instant) {
        let Self { nodes, forgotten_bytes } = self;
        let mut forget = |known: &Known| {
            let (sent, received) = known.flow.now();
            forgotten_bytes.0 += sent;
            forgotten_bytes.1 += received;
        };
        nodes.retain(|_, known| {
            let stays = known.gone_at.is_none_or(|gone_at| now.saturating_duration_since(gone_at) < KEPT);
            if !stays {
                forget(known);
            }
            stays
        });
        // One more at a time, as sessions end one by one.
        let gone = || nodes.iter().filter_map(|(id, known)| Some((known.gone_at?, *id)));
        if gone().count() > GONE_MAX
            && let Some((_, first)) = gone().min()
            && let Some(known) = nodes.remove(&first)
        {
            forget(&known);
        }
    }

    fn totals(&self) -> Totals {
        let (sent_bytes, received_bytes) = self.forgotten_bytes;
        let begin = Totals { sent_bytes, received_bytes, ..Totals::default() };
        self.nodes.values().fold(begin, |sum, known| {
            let (sent, received) = known.flow.now();
            Totals {
                nodes: sum.nodes + u64::from(known.gone_at.is_none()),
                sessions: sum.sessions + u64::from(known.sessions()),
                sent_bytes: sum.sent_bytes + sent,
                received_bytes: sum.received_bytes + received,
            }
        })
    }
}

impl Known {
    fn sessions(&self) -> u32 {
        self.quic_sessions + self.tcp_sessions
    }

    fn sessions_by(&mut self, lane: LaneKind) -> &mut u32 {
        match lane {
            LaneKind::Quic => &mut self.quic_sessions,
            LaneKind::Tcp => &mut self.tcp_sessions,
        }
    }

    fn seen(&self) -> Peer {
        let (sent_bytes, received_bytes) = self.flow.now();
        Peer {
            node: self.node.clone(),
            role: self.role,
            quic_sessions: self.quic_sessions,
            tcp_sessions: self.tcp_sessions,
            is_leaving: self.is_leaving,
            sent_bytes,
            received_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Text;

    fn node(number: u32) -> Node {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let address = ([10, 0, 0, 1], 65000).into();
        Node { id: NodeId::from_bytes(id), address, zone: Text::cut("a") }
    }

    fn meet(state: &mut State, number: u32, lane: LaneKind) -> Arc<Flow> {
        state.meet(&node(number), Role::Peer, lane)
    }

    #[test]
    fn sessions_of_a_node_are_one_sum() {
        let mut state = State::default();
        meet(&mut state, 1, LaneKind::Quic).sent(5);
        let second = meet(&mut state, 1, LaneKind::Tcp);
        second.sent(6);
        second.received(7);
        meet(&mut state, 2, LaneKind::Quic).received(100);
        state.part(&node(1).id, LaneKind::Quic, Instant::now());
        // What was on its way still counts.
        second.received(1);

        let seen = state.nodes[&node(1).id].seen();
        assert_eq!((seen.quic_sessions, seen.tcp_sessions), (0, 1));
        assert_eq!((seen.sent_bytes, seen.received_bytes), (11, 8));
        let expected = Totals { nodes: 2, sessions: 2, sent_bytes: 11, received_bytes: 108 };
        assert_eq!(state.totals(), expected);
    }

    #[test]
    fn who_is_gone_is_forgotten_and_the_totals_are_not() {
        let (mut state, start) = (State::default(), Instant::now());
        meet(&mut state, 1, LaneKind::Quic).sent(5);
        meet(&mut state, 2, LaneKind::Quic).received(3);
        state.part(&node(1).id, LaneKind::Quic, start);
        state.forget(start + KEPT - Duration::from_secs(1));
        assert_eq!(state.nodes[&node(1).id].seen().sent_bytes, 5, "who looks twice sees what has moved");
        state.forget(start + KEPT);
        assert_eq!(state.nodes.keys().collect::<Vec<_>>(), [&node(2).id], "one with a session is kept");
        assert_eq!(state.totals(), Totals { nodes: 1, sessions: 1, sent_bytes: 5, received_bytes: 3 });
        // It comes again and begins anew.
        assert_eq!(meet(&mut state, 1, LaneKind::Quic).now(), (0, 0));
    }

    #[test]
    fn nodes_that_come_and_go_do_not_fill_the_memory() {
        let (mut state, start) = (State::default(), Instant::now());
        for number in 0..GONE_MAX as u32 + 100 {
            meet(&mut state, number, LaneKind::Tcp).sent(1);
            state.part(&node(number).id, LaneKind::Tcp, start + Duration::from_micros(number.into()));
        }
        assert_eq!(state.nodes.len(), GONE_MAX);
        assert!(!state.nodes.contains_key(&node(99).id) && state.nodes.contains_key(&node(100).id));
        assert_eq!(state.totals().sent_bytes, GONE_MAX as u64 + 100);
    }

    #[test]
    fn who_leaves_may_come_back_elsewhere() {
        let peers = Peers::default();
        peers.leaves(&node(1).id);
        assert_eq!(peers.seen(), [], "nobody knows it");
        peers.state().meet(&node(1), Role::Peer, LaneKind::Quic);
        peers.leaves(&node(1).id);
        assert!(peers.seen()[0].is_leaving);
        peers.state().part(&node(1).id, LaneKind::Quic, Instant::now());
        let moved = Node { zone: Text::cut("b"), ..node(1) };
        peers.state().meet(&moved, Role::Seed, LaneKind::Quic);
        let seen = &peers.seen()[0];
        assert_eq!((seen.is_leaving, &seen.node, seen.role), (false, &moved, Role::Seed));
    }
}
