//! What a content is called, and whose bytes it holds.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// How a content got its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Naming {
    /// By the sha256 of its bytes: an OCI blob or manifest. The bytes can be checked against the name.
    Digest,
    /// By the sha256 of its canonical URL with tag and application. The bytes prove nothing.
    Url,
}

/// The name of one immutable byte sequence: 32 bytes, see [`Naming`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId([u8; 32]);

impl ContentId {
    /// From the 32 bytes of the name.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The sha256 of a canonical name.
    pub fn of_name(name: &str) -> Self {
        Self(Sha256::digest(name.as_bytes()).into())
    }

    /// The 32 bytes of the name.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A number that spreads contents evenly, for choosing a shard.
    pub fn spread(&self) -> u64 {
        u64::from_le_bytes([
            self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5], self.0[6], self.0[7],
        ])
    }
}

/// 64 lower-case hexadecimal digits were expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not 64 lower-case hexadecimal digits")]
pub struct NotAnId;

impl FromStr for ContentId {
    type Err = NotAnId;

    /// Parses 64 lower-case hexadecimal digits, the form of an OCI digest behind `sha256:`.
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(NotAnId);
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(NotAnId),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each answer carries the name twice: digit by digit through the formatter costs a microsecond each time.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}

/// The registry that unverified bytes came from, as the sha256 of its origin (`https://host:port`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RegistryScope([u8; 32]);

impl RegistryScope {
    /// The scope of a registry, given as its canonical origin `scheme://host:port`.
    pub fn of_origin(origin: &str) -> Self {
        Self(Sha256::digest(origin.as_bytes()).into())
    }

    /// From the 32 bytes of the hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Scope {
    /// For a comparison without a lock: 0 for verified content, else half of the registry's hash.
    pub(crate) fn tag(self) -> u64 {
        match self {
            Self::Verified => 0,
            Self::Registry(RegistryScope(hash)) => {
                u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
                    | 1
            }
        }
    }
}

/// Under which registries a content may be served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// Its digest is right: it is the same content wherever it came from.
    Verified,
    /// Not yet checked as a whole: it belongs to the registry that it came from.
    Registry(RegistryScope),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_survives_its_text(bytes: [u8; 32]) {
            let id = ContentId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn other_text_is_refused(text in "\\PC{0,80}") {
            let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            prop_assert_eq!(text.parse::<ContentId>().is_ok(), valid);
        }
    }

    #[test]
    fn upper_case_is_refused_as_in_the_oci_specification() {
        assert_eq!("A".repeat(64).parse::<ContentId>(), Err(NotAnId));
    }
}
