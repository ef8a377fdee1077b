//! Which versions of the protocol a node speaks, and which one two nodes use.

use crate::node::NodeId;

/// The versions that a node speaks: all from `oldest` to `newest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The oldest one.
    pub oldest: u16,
    /// The newest one.
    pub newest: u16,
}

/// The versions of this code.
pub const OURS: Versions = Versions { oldest: 1, newest: 1 };

/// Two nodes have no version in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "node {node} speaks versions {}–{} of the peer protocol and this node {}–{}: install a newer darter on {}",
    theirs.oldest, theirs.newest, ours.oldest, ours.newest,
    if theirs.newest < ours.oldest { "that node" } else { "this node" }
)]
pub struct NoCommonVersion {
    /// Who it is.
    pub node: NodeId,
    /// What this node speaks.
    pub ours: Versions,
    /// What that node speaks.
    pub theirs: Versions,
}

impl Versions {
    /// What the first fields of a `Hello` say, which stay where they are in all versions; `None` if they are not there.
    #[must_use]
    pub fn of_hello(payload: &[u8]) -> Option<Self> {
        let [a, b, c, d] = *payload.first_chunk()?;
        Some(Self { oldest: u16::from_le_bytes([a, b]), newest: u16::from_le_bytes([c, d]) })
    }

    /// The newest version that both speak. Both sides come to the same answer.
    ///
    /// # Errors
    /// There is none; the message says which side is too old.
    pub fn agree(self, node: NodeId, theirs: Self) -> Result<u16, NoCommonVersion> {
        let common = self.newest.min(theirs.newest);
        if common < self.oldest.max(theirs.oldest) {
            return Err(NoCommonVersion { node, ours: self, theirs });
        }
        Ok(common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Hello;

    fn check(ours: (u16, u16), theirs: (u16, u16), expected: Result<u16, &str>) {
        let versions = |(oldest, newest)| Versions { oldest, newest };
        let node = NodeId::from_bytes([0xab; 32]);
        let agreed = versions(ours).agree(node, versions(theirs));
        assert_eq!(agreed.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
        assert_eq!(versions(theirs).agree(node, versions(ours)).ok(), agreed.ok());
    }

    #[test]
    fn the_newest_common_version_is_used() {
        check((1, 1), (1, 1), Ok(1));
        check((1, 3), (2, 5), Ok(3));
        check((1, 9), (4, 4), Ok(4));
    }

    #[test]
    fn without_a_common_one_the_message_says_who_is_too_old() {
        let older = "node abababababab speaks versions 1–2 of the peer protocol and this node 3–4: install a newer darter on that node";
        check((3, 4), (1, 2), Err(older));
        let newer = "node abababababab speaks versions 3–4 of the peer protocol and this node 1–2: install a newer darter on this node";
        check((1, 2), (3, 4), Err(newer));
    }

    #[test]
    fn an_empty_range_agrees_with_nobody() {
        let theirs = Versions { oldest: 3, newest: 1 };
        let ours = Versions { oldest: 1, newest: 9 };
        assert!(ours.agree(NodeId::from_bytes([0; 32]), theirs).is_err());
    }

    #[test]
    fn the_versions_are_the_first_fields_of_a_hello() {
        let hello = crate::wire::Message::from(Hello {
            version_oldest: 3,
            version_newest: 0x0102,
            ..crate::wire::message::tests::hello()
        });
        let payload = hello.encode().slice(crate::wire::HEAD_BYTES..);
        assert_eq!(Versions::of_hello(&payload), Some(Versions { oldest: 3, newest: 0x0102 }));
        assert_eq!(Versions::of_hello(&payload[..3]), None);
    }
}
