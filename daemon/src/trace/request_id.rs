//! The name of one request in logs and answers: its client's, or one that the front makes.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::chance;

/// Longest that is taken over from a client.
const BYTES_MAX: usize = 64;

/// Visible ASCII, 1 to 64 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The header that it comes and goes in.
    pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
    /// What a registry calls the request that it was asked, in an answer of its own that is handed through.
    pub(crate) const OF_REGISTRY: HeaderName = HeaderName::from_static("x-registry-request-id");

    /// The client's own name for its request, if it has given one that can stand in a log line; else a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(Self::HEADER).iter();
        match (given.next(), given.next()) {
            (Some(value), None) if is_sane(value.as_bytes()) => Self(value.clone()),
            _ => Self::new(),
        }
    }

    fn new() -> Self {
        // Hexadecimal digits are always a value.
        Self(
            HeaderValue::try_from(format!("{:016x}", chance::number()))
                .unwrap_or(HeaderValue::from_static("-")),
        )
    }

    /// As a header of an answer.
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

fn is_sane(value: &[u8]) -> bool {
    (1..=BYTES_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[&[u8]]) -> RequestId {
        let value = |value: &&[u8]| (RequestId::HEADER, HeaderValue::from_bytes(value).expect("a value"));
        RequestId::of(&values.iter().map(value).collect())
    }

    #[test]
    fn a_clients_id_is_taken_over_if_it_can_stand_in_a_log() {
        let longest = "x".repeat(BYTES_MAX);
        for id in ["a", "7f3d-42/=", &longest] {
            assert_eq!(of(&[id.as_bytes()]).as_str(), id);
        }
        let too_long = "x".repeat(BYTES_MAX + 1);
        let none: [&[&[u8]]; 7] =
            [&[], &[b""], &[b"a b"], &[b"a\tb"], &[b"\xff"], &[too_long.as_bytes()], &[b"a", b"b"]];
        for ids in none {
            let made = of(ids);
            assert_eq!(made.as_str().len(), 16, "{ids:?}: {made}");
            assert!(made.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
            assert_ne!(made, of(ids), "each has its own");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_says_is_a_word_of_a_log(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let id = RequestId::of(&[(RequestId::HEADER, value)].into_iter().collect());
                prop_assert!(is_sane(id.as_str().as_bytes()));
            }
        }
    }
}
