//! `Range` of a client's request (RFC 9110, section 14.2), and what it comes to for a content of known length.

use std::ops::Range;

use crate::origin::content_range::number;

/// What part of a content is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// All of it, as 200.
    Whole,
    /// `a-b`: from `first` to `last`, both included.
    Span {
        /// First byte.
        first: u64,
        /// Last byte; at least `first`.
        last: u64,
    },
    /// `a-`: from there to the end.
    From {
        /// First byte.
        first: u64,
    },
    /// `-n`: the last so many bytes.
    Suffix {
        /// How many.
        bytes: u64,
    },
}

/// The asked bytes of a content, or that there are none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// All of it, as 200.
    Whole,
    /// These bytes, as 206.
    Part(Range<u64>),
    /// None, as 416.
    Unsatisfiable,
}

impl Wanted {
    /// Reads a `Range` field. Several ranges, other units and malformed values mean the whole content, as the
    /// RFC allows for a server that does not know them; they are never an error.
    pub fn parse(value: Option<&str>) -> Self {
        value.and_then(Self::single).unwrap_or(Self::Whole)
    }

    fn single(value: &str) -> Option<Self> {
        let (unit, set) = value.trim().split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        // A comma makes the last part no number.
        let (first, last) = set.trim().split_once('-')?;
        match (first.trim(), last.trim()) {
            ("", bytes) => Some(Self::Suffix { bytes: number(bytes)? }),
            (first, "") => Some(Self::From { first: number(first)? }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Span { first, last })
            }
        }
    }

    /// The bytes of a content of that length.
    pub fn resolve(self, length_bytes: u64) -> Resolved {
        let part = match self {
            Self::Whole => return Resolved::Whole,
            Self::Span { first, last } => first..last.saturating_add(1).min(length_bytes),
            Self::From { first } => first..length_bytes,
            Self::Suffix { bytes } => length_bytes.saturating_sub(bytes)..length_bytes,
        };
        if part.start < part.end { Resolved::Part(part) } else { Resolved::Unsatisfiable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(value: &str, length_bytes: u64, expected: Resolved) {
        assert_eq!(Wanted::parse(Some(value)).resolve(length_bytes), expected, "{value} of {length_bytes}");
    }

    #[test]
    fn what_clients_send() {
        check("bytes=0-0", 10, Resolved::Part(0..1));
        check("bytes=117610443-117773873", 120_000_000, Resolved::Part(117_610_443..117_773_874));
        check("bytes=8388608-", 10_000_000, Resolved::Part(8_388_608..10_000_000));
        check("bytes=-5", 10, Resolved::Part(5..10));
        check("bytes=-50", 10, Resolved::Part(0..10));
        check("bytes=5-100", 10, Resolved::Part(5..10));
        check("Bytes = 2 - 3", 10, Resolved::Part(2..4));
    }

    #[test]
    fn what_cannot_be_had() {
        check("bytes=10-", 10, Resolved::Unsatisfiable);
        check("bytes=10-20", 10, Resolved::Unsatisfiable);
        check("bytes=-0", 10, Resolved::Unsatisfiable);
        check("bytes=0-0", 0, Resolved::Unsatisfiable);
        check("bytes=0-18446744073709551615", 10, Resolved::Part(0..10));
    }

    #[test]
    fn what_is_no_single_range_means_the_whole() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=3-2",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=a-b",
            "bytes=+1-2",
        ] {
            check(value, 10, Resolved::Whole);
        }
    }

    proptest! {
        #[test]
        fn any_value_resolves_inside_the_content(value in "(bytes=)?[0-9,\\-]{0,30}|\\PC{0,20}", length: u64) {
            if let Resolved::Part(part) = Wanted::parse(Some(&value)).resolve(length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
