//! The key of one node, by which others know it again after a restart.

use super::authority::Key;
use super::hex;
use super::member::Member;
use super::secrets::{NoRandomness, Secret};
use crate::node::{NodeId, Role};

const FIRST_LINE: &str = "darter-node-key 1";

/// A node's key. Its text is `darter-node-key 1` and a line of 64 hexadecimal digits.
#[derive(Debug)]
pub struct NodeKey {
    secret: Secret,
    pub(super) key: Key,
}

impl NodeKey {
    /// A new one.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self::from_secret(Secret::random()?))
    }

    /// Reads the text of a file; `None` when it is none of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let digits = lines.next().filter(|line| *line == FIRST_LINE).and(lines.next())?;
        if lines.next().is_some() {
            return None;
        }
        Some(Self::from_secret(Secret(hex::bytes_of(digits)?)))
    }

    /// The text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{FIRST_LINE}\n{}\n", hex::text_of(&self.secret.0))
    }

    /// The node's name.
    #[must_use]
    pub fn id(&self) -> NodeId {
        Member::of(&self.key.public_key_info(), Role::Peer).id
    }

    fn from_secret(secret: Secret) -> Self {
        Self { key: Key::from_secret(&secret), secret }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        let key = NodeKey::generate().expect("randomness");
        assert_eq!(NodeKey::parse(&key.to_text()).map(|read| read.id()), Some(key.id()));
        assert_ne!(NodeKey::generate().expect("randomness").id(), key.id());
    }

    #[test]
    fn anything_else_is_refused() {
        let text = NodeKey::generate().expect("randomness").to_text();
        let longer = format!("{text}\n");
        for other in
            ["", "darter-node-key 1", &text[1..], &text[..text.len() - 2], &longer, &text.to_uppercase()]
        {
            assert!(NodeKey::parse(other).is_none(), "{other}");
        }
    }
}
