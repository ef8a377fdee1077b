//! How a request or a person names a content: its whole id, or as much of the beginning as no other has. Pure.

use std::fmt;
use std::str::FromStr;

use darter_engine::{ContentId, Naming};

/// Fewer digits are sooner a mistake than a name.
pub(crate) const DIGITS_MIN: usize = 6;
const DIGITS_MAX: usize = 64;

/// `sha256:<hex>`, `url:<hex>` or `<hex>`, with at least 6 digits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ContentRef {
    naming: Option<Naming>,
    digits: String,
}

/// Why a text names no content.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is no id: expected {DIGITS_MIN} to {DIGITS_MAX} hexadecimal digits, with sha256: before them or not; `darter ls` shows ids"
)]
pub(crate) struct NoReference(String);

impl FromStr for ContentRef {
    type Err = NoReference;

    fn from_str(text: &str) -> Result<Self, NoReference> {
        let (naming, digits) = match text.split_once(':') {
            Some(("sha256", digits)) => (Some(Naming::Digest), digits),
            Some(("url", digits)) => (Some(Naming::Url), digits),
            _ => (None, text),
        };
        let right = (DIGITS_MIN..=DIGITS_MAX).contains(&digits.len())
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !right {
            return Err(NoReference(text.chars().take(100).collect()));
        }
        Ok(Self { naming, digits: digits.to_ascii_lowercase() })
    }
}

impl fmt::Display for ContentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.naming {
            Some(Naming::Digest) => write!(f, "sha256:{}", self.digits),
            Some(Naming::Url) => write!(f, "url:{}", self.digits),
            None => f.write_str(&self.digits),
        }
    }
}

impl ContentRef {
    /// Whether it may mean that content.
    pub(crate) fn means(&self, naming: Naming, id: ContentId) -> bool {
        self.naming.is_none_or(|named| named == naming)
            && self.digits.bytes().enumerate().all(|(at, digit)| {
                let byte = id.as_bytes()[at / 2];
                let nibble = if at % 2 == 0 { byte >> 4 } else { byte & 0x0f };
                char::from(digit).to_digit(16) == Some(u32::from(nibble))
            })
    }
}

/// The id of a content as it is written everywhere.
pub(crate) fn full(naming: Naming, id: ContentId) -> String {
    match naming {
        Naming::Digest => format!("sha256:{id}"),
        Naming::Url => format!("url:{id}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(digits: &str) -> ContentId {
        format!("{digits:0<64}").parse().unwrap()
    }

    fn check(text: &str, naming: Naming, content: &str, expected: bool) {
        let reference: ContentRef = text.parse().unwrap();
        assert_eq!(reference.means(naming, id(content)), expected, "{text} {content}");
    }

    #[test]
    fn a_beginning_is_a_name() {
        check("abcdef", Naming::Digest, "abcdef01", true);
        check("abcdef0", Naming::Digest, "abcdef01", true);
        check("ABCDEF", Naming::Digest, "abcdef01", true);
        check("abcdef1", Naming::Digest, "abcdef01", false);
        check("sha256:abcdef", Naming::Digest, "abcdef01", true);
        check("sha256:abcdef", Naming::Url, "abcdef01", false);
        check("url:abcdef", Naming::Url, "abcdef01", true);
        check(&"0".repeat(64), Naming::Digest, "0", true);
    }

    #[test]
    fn what_is_no_name() {
        let long = "a".repeat(65);
        for text in
            ["", "abcde", "abcdeg", "sha512:abcdef", "sha256:", "sha256:sha256:abcdef", &long, "äbcdef"]
        {
            assert!(text.parse::<ContentRef>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(sha256:|url:)?([0-9a-fA-F]{0,70}|\\PC{0,20})") {
            if let Ok(reference) = text.parse::<ContentRef>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }

        #[test]
        fn every_beginning_of_an_id_means_it(bytes: [u8; 32], digits in DIGITS_MIN..=DIGITS_MAX) {
            let id = ContentId::from_bytes(bytes);
            let text = full(Naming::Digest, id);
            let beginning: ContentRef = text[..digits + 7].parse().unwrap();
            prop_assert!(beginning.means(Naming::Digest, id));
        }
    }
}
