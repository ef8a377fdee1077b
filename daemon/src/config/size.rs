//! Sizes as people write them: `10GiB`, `500MB`, `1.5GiB`, `50Gi`, bare bytes.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It does not begin with a decimal number.
    #[error("not a number with a unit")]
    NotANumber,
    /// `K`, `M`, `G`: 1000 to some, 1024 to others.
    #[error("{0} may mean {0}B or {0}iB; write which")]
    Ambiguous(String),
    /// What follows the number is no unit.
    #[error("unknown unit; write B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)")]
    UnknownUnit,
    /// It does not fit into 64 bits.
    #[error("larger than any disk")]
    TooLarge,
}

/// Powers of 1024 first, and the largest first: the order in which `Display` tries them.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Digits after the point; a byte is 10⁻¹² of the largest unit.
const FRACTION_DIGITS_MAX: usize = 12;

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim_start());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > FRACTION_DIGITS_MAX {
            return Err(SizeError::NotANumber);
        }
        let unit_bytes = u128::from(unit_bytes(unit)?);
        let whole: u64 = whole.parse().map_err(|_| SizeError::TooLarge)?;
        let scale = 10u128.pow(fraction.len() as u32);
        let fraction: u128 = fraction.parse().map_err(|_| SizeError::NotANumber)?;
        // 2^64 · 2^40 and 10^12 · 2^40 are far from 2^128. Parts of a byte are dropped.
        let bytes = u128::from(whole) * unit_bytes + fraction * unit_bytes / scale;
        u64::try_from(bytes).map(Self).map_err(|_| SizeError::TooLarge)
    }
}

fn unit_bytes(unit: &str) -> Result<u64, SizeError> {
    let unit = unit.to_ascii_uppercase();
    match unit.as_str() {
        "" => return Ok(1),
        "K" | "M" | "G" | "T" => return Err(SizeError::Ambiguous(unit)),
        _ => {}
    }
    // Dragonfly and Kubernetes write `Gi` for `GiB`.
    let same = |name: &str| {
        name.eq_ignore_ascii_case(&unit) || name.len() == 3 && name[..2].eq_ignore_ascii_case(&unit)
    };
    UNITS.iter().find(|(name, _)| same(name)).map(|(_, bytes)| *bytes).ok_or(SizeError::UnknownUnit)
}

impl fmt::Display for ByteSize {
    /// Exact: the largest unit of which it is a whole number.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, bytes): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*bytes);
        let (name, bytes) = UNITS.iter().find(fits).unwrap_or(&("B", 1));
        write!(out, "{}{name}", self.0 / bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read() {
        let check = |text: &str, expected: Result<u64, SizeError>| {
            assert_eq!(text.parse().map(|ByteSize(bytes)| bytes), expected, "{text:?}");
        };
        check("0", Ok(0));
        check("65536", Ok(65536));
        check("12B", Ok(12));
        check("10GiB", Ok(10 << 30));
        check("10 GiB", Ok(10 << 30));
        check("50Gi", Ok(50 << 30));
        check("500MB", Ok(500_000_000));
        check("500mb", Ok(500_000_000));
        check("1.5GiB", Ok(3 << 29));
        check("0.0001KB", Ok(0));
        check("16777216TiB", Err(SizeError::TooLarge));
        check("18446744073709551615", Ok(u64::MAX));
        check("18446744073709551616", Err(SizeError::TooLarge));
        check("10G", Err(SizeError::Ambiguous("G".into())));
        check("10 bananas", Err(SizeError::UnknownUnit));
        for text in ["", "GiB", "-1", "1.", ".5GiB", "1.5.1GiB", "1e9", "٣GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(bytes: u64, shift in 0..64u32) {
            let size = ByteSize(bytes >> shift << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn any_text_is_read_or_refused(text in r"\PC{0,20}|[0-9]{0,25}\.?[0-9]{0,15} ?[kKmMgGtT]?i?B?") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
