//! What has become of a content at all nodes of the cluster, as the seeds tell it.
//!
//! Pure. A node that two seeds know is told of by both: that it has all of a content stays, and else the last word counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use darter_transport::cluster::Spreading;
use darter_transport::node::NodeId;
use darter_transport::wire::{Code, Reach, ReachState};
use serde::{Deserialize, Serialize};

use super::peers::full_id;

/// Nodes that are told apart; more than a cluster is made for.
const NODES_MAX: usize = 65_536;
/// Nodes that an answer names with what is wrong with them.
pub(crate) const NAMED_MAX: usize = 64;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpreadingInfo {
    /// That are to have it.
    pub(crate) nodes: u64,
    /// That have all of it.
    pub(crate) nodes_done: u64,
    /// That do not get it.
    pub(crate) nodes_failed: u64,
    /// That all of them together hold.
    pub(crate) come_bytes: u64,
}

/// How it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpreadInfo {
    /// That were to have it.
    pub(crate) nodes: u64,
    /// That have all of it.
    pub(crate) nodes_done: u64,
    /// Those that do not, and seeds that have not told their nodes: [`NAMED_MAX`] of them.
    pub(crate) failed: Vec<NotReached>,
}

/// A node that does not have it, or a seed that has not told the nodes that only it knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct NotReached {
    /// 64 hexadecimal digits.
    pub(crate) node: String,
    /// Where it takes connections.
    pub(crate) address: SocketAddr,
    /// What happened and what to do, for people.
    pub(crate) message: String,
}

/// All nodes, for one content.
#[derive(Debug, Default)]
pub(super) struct AllNodes {
    nodes: BTreeMap<NodeId, Reach>,
    silent_seeds: Vec<NotReached>,
}

impl AllNodes {
    /// A seed says this.
    pub(super) fn heard(&mut self, spreading: Spreading) {
        match spreading {
            Spreading::Reached(reaches) => reaches.into_iter().for_each(|reach| self.reached(reach)),
            Spreading::SeedFailed(failed) => {
                let (seed, refused) = *failed;
                let why = reason(refused.reason(), &refused.detail);
                let message = format!("this seed has not told the nodes that it knows: {why}");
                self.silent_seeds.push(not_reached(&seed.id, seed.address, message));
            }
        }
    }

    fn reached(&mut self, reach: Reach) {
        let is_full = self.nodes.len() >= NODES_MAX;
        match self.nodes.get_mut(&reach.node.id) {
            Some(known) if known.state == ReachState::Whole => {}
            Some(known) => *known = reach,
            None if is_full => {}
            None => _ = self.nodes.insert(reach.node.id, reach),
        }
    }

    fn are(&self, state: ReachState) -> u64 {
        self.nodes.values().filter(|reach| reach.state == state).count() as u64
    }

    /// Until now.
    pub(super) fn so_far(&self) -> SpreadingInfo {
        SpreadingInfo {
            nodes: self.nodes.len() as u64,
            nodes_done: self.are(ReachState::Whole),
            nodes_failed: self.are(ReachState::Failed),
            come_bytes: self.nodes.values().fold(0, |sum, reach| sum.saturating_add(reach.held_bytes)),
        }
    }

    /// Nothing more is heard.
    pub(super) fn end(self) -> SpreadInfo {
        let (nodes, nodes_done) = (self.nodes.len() as u64, self.are(ReachState::Whole));
        let failed = self.nodes.values().filter_map(|reach| {
            let message = match reach.state {
                ReachState::Whole => return None,
                ReachState::Failed => reason(Code::from_number(reach.code), &reach.detail),
                ReachState::Coming => "nothing more was heard of it; try again".into(),
            };
            Some(not_reached(&reach.node.id, reach.node.address, message))
        });
        let failed = self.silent_seeds.iter().cloned().chain(failed).take(NAMED_MAX).collect();
        SpreadInfo { nodes, nodes_done, failed }
    }
}

fn not_reached(id: &NodeId, address: SocketAddr, message: String) -> NotReached {
    NotReached { node: full_id(id), address, message }
}

/// Why a node does not have it, and what to do.
fn reason(code: Code, detail: &str) -> String {
    let known = match code {
        Code::Unknown => "its darter is older and cannot be told to fetch something; update it",
        Code::Unkept => "it has no room; give it a greater storage.capacity, or unpin something there",
        Code::Leaving => "it is stopping; it fetches what it is asked for when it runs again",
        Code::Busy => "it was busy with other contents all the time; try again",
        Code::NotHeld => {
            "not all of it came from the other nodes, or it has no room; try again, and look at its log"
        }
        Code::Forbidden => "the certificate of the node that asked does not allow it",
        Code::WrongContent => "the bytes have another digest than the name",
        Code::Origin => "the registry does not allow it to who asks",
        _ => "it did not do it; try again, and look at its log",
    };
    match detail {
        "" => known.to_owned(),
        detail => format!("{known} ({detail})"),
    }
}

#[cfg(test)]
mod tests {
    use darter_transport::node::Node;
    use darter_transport::wire::{Refused, Text};

    use super::*;

    fn node(number: u8) -> Node {
        let address = ([10, 0, 0, number], 65000).into();
        Node { id: NodeId::from_bytes([number; 32]), address, zone: Text::cut("") }
    }

    fn reach(number: u8, state: ReachState, held_bytes: u64, code: Code) -> Reach {
        let code = if state == ReachState::Failed { code.number() } else { 0 };
        Reach { node: node(number), state, held_bytes, code, detail: Text::cut("") }
    }

    fn heard(reaches: &[(u8, ReachState, u64, Code)]) -> AllNodes {
        let mut all = AllNodes::default();
        for (number, state, held_bytes, code) in reaches {
            all.heard(Spreading::Reached(vec![reach(*number, *state, *held_bytes, *code)]));
        }
        all
    }

    #[test]
    fn what_two_seeds_say_of_a_node_is_one_thing() {
        use ReachState::{Coming, Failed, Whole};
        let all = heard(&[
            (1, Coming, 3, Code::Other(0)),
            (1, Whole, 9, Code::Other(0)),
            // From the other seed, late.
            (1, Coming, 0, Code::Other(0)),
            (1, Failed, 0, Code::Busy),
            (2, Failed, 0, Code::Other(0)),
            (2, Coming, 4, Code::Other(0)),
        ]);
        let expected = SpreadingInfo { nodes: 2, nodes_done: 1, nodes_failed: 0, come_bytes: 13 };
        assert_eq!(all.so_far(), expected);
    }

    #[test]
    fn who_has_it_not_is_named_with_what_to_do() {
        use ReachState::{Coming, Failed, Whole};
        let mut all = heard(&[
            (1, Whole, 9, Code::Other(0)),
            (2, Failed, 0, Code::Unknown),
            (3, Failed, 0, Code::Unkept),
            (4, Coming, 5, Code::Other(0)),
        ]);
        let refused = Refused::of(Code::Other(0), "it says nothing");
        all.heard(Spreading::SeedFailed(Box::new((node(5), refused))));
        let ended = all.end();
        assert_eq!((ended.nodes, ended.nodes_done), (4, 1));
        let named: Vec<_> = ended.failed.iter().map(|failed| (&failed.node[..2], &*failed.message)).collect();
        assert!(
            matches!(named[0], ("05", message) if message.contains("seed") && message.contains("says nothing"))
        );
        assert!(matches!(named[1], ("02", message) if message.contains("update")), "{named:?}");
        assert!(matches!(named[2], ("03", message) if message.contains("storage.capacity")), "{named:?}");
        assert!(matches!(named[3], ("04", message) if message.contains("try again")), "{named:?}");
    }

    #[test]
    fn an_answer_names_only_so_many() {
        let mut all = AllNodes::default();
        for number in 0..200 {
            all.heard(Spreading::Reached(vec![reach(number, ReachState::Failed, 0, Code::Internal)]));
        }
        let ended = all.end();
        assert_eq!((ended.nodes, ended.failed.len()), (200, NAMED_MAX));
    }
}
