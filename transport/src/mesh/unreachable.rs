//! Why there is no session with a node.

use std::net::SocketAddr;
use std::time::Duration;

use crate::lane::ConnectError;
use crate::node::NodeId;
use crate::wire::{Code, NoCommonVersion};

/// Why there is no session with a node. All of them mean: ask another node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreachable {
    /// It is this node.
    #[error("{0} is this node itself")]
    Oneself(SocketAddr),
    /// Another node than the one that is looked for listens there.
    #[error("at {address} is node {found} and not {expected}")]
    OtherNode {
        /// Where.
        address: SocketAddr,
        /// Who should be there.
        expected: NodeId,
        /// Who is.
        found: NodeId,
    },
    /// It is left alone, because an attempt has failed or it may not be spoken to.
    #[error("node {address} is tried again in {after:?}: {reason}")]
    LeftAlone {
        /// Where.
        address: SocketAddr,
        /// How long still.
        after: Duration,
        /// What happened.
        reason: String,
    },
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No version in common.
    #[error(transparent)]
    Version(#[from] NoCommonVersion),
    /// There was a connection, and no proper `Hello` on it.
    #[error("node {address} was not greeted ({code:?}): {reason}")]
    Hello {
        /// Where.
        address: SocketAddr,
        /// What the side that ended it said.
        code: Code,
        /// For people.
        reason: String,
    },
    /// It has said that it goes.
    #[error("node {0} is leaving")]
    Leaving(NodeId),
    /// This node has as many sessions as it may have.
    #[error("this node has as many connections to others as it may have")]
    TooMany,
    /// This node goes itself.
    #[error("this node is leaving the cluster")]
    Closed,
}

impl Unreachable {
    /// Whether nothing will change before somebody changes a file, a clock or a version.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_refusal(),
            other => other.code().leaves_node(),
        }
    }

    /// What the other side has said, or is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Version(_) => Code::Version,
            Self::Hello { code, .. } => *code,
            Self::TooMany => Code::Busy,
            Self::Leaving(_) | Self::Closed => Code::Leaving,
            Self::Oneself(_) | Self::OtherNode { .. } | Self::LeftAlone { .. } | Self::Connect(_) => {
                Code::Other(0)
            }
        }
    }
}
