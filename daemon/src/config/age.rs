//! Times as Dragonfly's configuration writes them: `6h`, `1h30m`, `1m0s`; days too.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A time in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age(pub(super) Duration);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a number with a unit d, h, m or s")]
pub(super) struct AgeError;

/// Seconds of each unit, largest first.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl FromStr for Age {
    type Err = AgeError;

    fn from_str(text: &str) -> Result<Self, AgeError> {
        let mut seconds = 0u64;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(AgeError);
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or(AgeError)?;
            let count: u64 = rest[..end].parse().map_err(|_| AgeError)?;
            let unit = rest[end..].chars().next().ok_or(AgeError)?;
            let (_, unit_s) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(AgeError)?;
            seconds =
                count.checked_mul(*unit_s).and_then(|more| seconds.checked_add(more)).ok_or(AgeError)?;
            rest = &rest[end + unit.len_utf8()..];
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_secs();
        if rest == 0 {
            return out.write_str("0s");
        }
        for (name, unit_s) in UNITS {
            if rest >= unit_s {
                write!(out, "{}{name}", rest / unit_s)?;
                rest %= unit_s;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read() {
        let check = |text: &str, seconds: Option<u64>| {
            assert_eq!(text.parse().ok(), seconds.map(|s| Age(Duration::from_secs(s))), "{text:?}");
        };
        check("6h", Some(21_600));
        check("1m0s", Some(60));
        check("1d2h3m4s", Some(93_784));
        check("0s", Some(0));
        for text in
            ["", "6", "h", "6x", "6h3", "-1s", "1.5h", "99999999999999999999d", "9999999999999999999d"]
        {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(seconds: u64) {
            let age = Age(Duration::from_secs(seconds));
            prop_assert_eq!(age.to_string().parse(), Ok(age));
        }
    }
}
