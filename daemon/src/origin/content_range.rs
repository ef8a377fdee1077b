//! `Content-Range` of an origin's answer (RFC 9110, section 14.4).

use std::ops::Range;

/// A parsed field value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ContentRange {
    /// `bytes a-b/length` or `bytes a-b/*`; the range is half open.
    Part {
        /// The bytes that the body holds.
        bytes: Range<u64>,
        /// Length of the whole, if it is told.
        length_bytes: Option<u64>,
    },
    /// `bytes */length`: what was asked for does not exist.
    Unsatisfied {
        /// Length of the whole.
        length_bytes: u64,
    },
}

impl ContentRange {
    /// `None` for anything that is not a valid byte range.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim().split_once(' ')?;
        let (range, length) = rest.trim().split_once('/')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let length_bytes = match length {
            "*" => None,
            digits => Some(number(digits)?),
        };
        if range == "*" {
            return Some(Self::Unsatisfied { length_bytes: length_bytes? });
        }
        let (first, last) = range.split_once('-')?;
        let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
        let valid = first < end && length_bytes.is_none_or(|length| end <= length);
        valid.then_some(Self::Part { bytes: first..end, length_bytes })
    }
}

/// Digits only: `u64::from_str` would take a sign.
pub(crate) fn number(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(value: &str, expected: Option<ContentRange>) {
        assert_eq!(ContentRange::parse(value), expected, "{value}");
    }

    #[test]
    fn what_registries_send() {
        let part = |bytes, length_bytes| Some(ContentRange::Part { bytes, length_bytes });
        check("bytes 0-99/1000", part(0..100, Some(1000)));
        check("Bytes 5-5/*", part(5..6, None));
        check("bytes */1000", Some(ContentRange::Unsatisfied { length_bytes: 1000 }));
    }

    #[test]
    fn what_makes_no_sense() {
        for value in [
            "",
            "bytes",
            "bytes 1-2",
            "items 0-1/2",
            "bytes 2-1/9",
            "bytes 0-9/9",
            "bytes +1-2/9",
            "bytes -2/9",
            "bytes */*",
            "bytes 0-18446744073709551615/*",
            "bytes 0-1/99999999999999999999",
        ] {
            check(value, None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(value in "\\PC*") {
            let _ = ContentRange::parse(&value);
        }

        #[test]
        fn a_range_survives_its_text(start in 0..u64::MAX / 2, bytes in 1..u64::MAX / 4, behind in 0..u64::MAX / 8) {
            let end = start + bytes;
            let text = format!("bytes {start}-{}/{}", end - 1, end + behind);
            let expected = ContentRange::Part { bytes: start..end, length_bytes: Some(end + behind) };
            prop_assert_eq!(ContentRange::parse(&text), Some(expected));
        }
    }
}
