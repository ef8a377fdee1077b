//! Nodes of a cluster: their names and roles.

use std::fmt;

/// The name of a node: the BLAKE3 of its certificate's public key (SubjectPublicKeyInfo, DER). It is taken from the
/// handshake, never from a message that the node sends about itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// From the 32 bytes of the name.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the name.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    /// The first 12 hexadecimal digits, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// What a node's certificate lets it do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Takes and passes on blocks.
    Peer,
    /// May also go to the origin for others: own contents, attest blocks, purge, be a member.
    Seed,
}
