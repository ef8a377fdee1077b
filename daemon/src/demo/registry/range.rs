//! The `Range` header of a request (RFC 9110, section 14.2), for a single range of bytes.

use std::ops::Range;

/// What a `Range` header asks of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// There is no range, or one that a server may ignore: malformed, of another unit, or several.
    Whole,
    /// This part of it; never empty.
    Part(Range<u64>),
    /// Nothing of the range is within the content: 416.
    Unsatisfiable,
}

impl Wanted {
    pub(super) fn parse(header: Option<&str>, len: u64) -> Self {
        Self::single(header, len).unwrap_or(Self::Whole)
    }

    /// `None` where the header is to be ignored.
    fn single(header: Option<&str>, len: u64) -> Option<Self> {
        let (first, last) = header?.strip_prefix("bytes=")?.split_once('-')?;
        let range = match (number(first)?, number(last)?) {
            (None, None) => return None,
            (None, Some(suffix)) => len.saturating_sub(suffix)..len,
            (Some(first), None) => first..len,
            (Some(first), Some(last)) if first > last => return None,
            (Some(first), Some(last)) => first..last.saturating_add(1).min(len),
        };
        Some(if range.is_empty() { Self::Unsatisfiable } else { Self::Part(range) })
    }
}

/// The outer `None` is a malformed number, the inner one an absent number.
fn number(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    // `parse` alone would take a leading plus sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, wanted: Wanted) {
        assert_eq!(Wanted::parse(Some(header), 10), wanted, "{header}");
    }

    #[test]
    fn parts() {
        check("bytes=0-0", Wanted::Part(0..1));
        check("bytes=2-5", Wanted::Part(2..6));
        check("bytes=2-", Wanted::Part(2..10));
        check("bytes=2-99", Wanted::Part(2..10));
        check("bytes=9-18446744073709551615", Wanted::Part(9..10));
        check("bytes=-3", Wanted::Part(7..10));
        check("bytes=-30", Wanted::Part(0..10));
    }

    #[test]
    fn unsatisfiable() {
        check("bytes=10-", Wanted::Unsatisfiable);
        check("bytes=10-12", Wanted::Unsatisfiable);
        check("bytes=-0", Wanted::Unsatisfiable);
        assert_eq!(Wanted::parse(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn ignored() {
        for header in ["bytes=5-2", "bytes=-", "bytes=+1-2", "bytes=a-b", "bytes=0-1,3-4", "lines=0-1", ""] {
            check(header, Wanted::Whole);
        }
        check("bytes=99999999999999999999-", Wanted::Whole);
        assert_eq!(Wanted::parse(None, 10), Wanted::Whole);
    }
}
