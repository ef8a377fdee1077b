//! `Via` (RFC 9110, section 7.6.3): how a request that comes back to the daemon that sent it is known.
//!
//! A registry that leads back to the front, through whatever names and proxies, would be asked by the front that it
//! asks, until all connections are taken.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use http::{HeaderMap, HeaderValue, header};

/// This process among all through which a request may go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeId(String);

impl NodeId {
    /// That of this process: random, made once.
    #[must_use]
    pub fn of_this_process() -> &'static Self {
        static ID: std::sync::LazyLock<NodeId> = std::sync::LazyLock::new(NodeId::random);
        &ID
    }

    /// The standard library's own source of randomness: it must only not be met twice, and is no secret.
    fn random() -> Self {
        Self(format!("darter-{:016x}", RandomState::new().build_hasher().finish()))
    }

    /// Adds this node to those that a request has gone through.
    pub fn append_to(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(format!("1.1 {self}")) {
            headers.append(header::VIA, value);
        }
    }

    /// Whether a request has gone through this node.
    #[must_use]
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::VIA).iter();
        let hops = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        // `protocol received-by (comment)`
        hops.map(|hop| hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()))
            .any(|mut words| words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(self.0.as_bytes())))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_in(values: &[&str]) -> bool {
        let values = values.iter().map(|value| (header::VIA, HeaderValue::try_from(*value).unwrap()));
        NodeId("darter-1".into()).is_in(&values.collect())
    }

    #[test]
    fn a_node_finds_itself_and_nobody_else() {
        for values in
            [&["1.1 darter-1"][..], &["1.0 a, 1.1 Darter-1 (x), 2 b"], &["1.1 a", "HTTP/1.1  darter-1,"]]
        {
            assert!(is_in(values), "{values:?}");
        }
        for values in
            [&[][..], &["1.1 darter-2"], &["1.1 darter-11"], &["darter-1"], &["1.1 a (darter-1)"], &[",,"]]
        {
            assert!(!is_in(values), "{values:?}");
        }
    }

    #[test]
    fn what_the_client_said_stays() {
        let node = NodeId::random();
        let mut headers: HeaderMap = [(header::VIA, HeaderValue::from_static("1.1 a"))].into_iter().collect();
        node.append_to(&mut headers);
        let values: Vec<_> =
            headers.get_all(header::VIA).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, ["1.1 a".to_owned(), format!("1.1 {node}")]);
        assert!(node.is_in(&headers) && !NodeId::random().is_in(&headers));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = NodeId::random().is_in(&[(header::VIA, value)].into_iter().collect());
            }
        }
    }
}
