//! The other side of a connection, as its certificate tells.

use crate::node::{NodeId, Role};

/// Who is at the other end: taken from the handshake, never from a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// The name of the node.
    pub id: NodeId,
    /// What it may do.
    pub role: Role,
}

impl Member {
    pub(super) fn of(public_key_info: &[u8], role: Role) -> Self {
        Self { id: NodeId::from_bytes(blake3::hash(public_key_info).into()), role }
    }
}
