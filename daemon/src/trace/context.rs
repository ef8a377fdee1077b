//! `traceparent` (W3C Trace Context, level 2): which trace a request is a part of, and whether that is recorded. Pure.
//!
//! `tracestate` is for others and is handed on with a client's other headers, within the bounds of a head.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use http::{HeaderMap, HeaderName};

/// The header that a context comes and goes in.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems on the way say beside it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` trace `-` span `-` flags: the length of version 0, and the least of a later one.
const BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;
const SAMPLED: u8 = 1;
/// The trace's number is random, so that others may sample by it.
const RANDOM: u8 = 2;

/// A place in a trace: the span that is the parent of whatever follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    /// The trace.
    pub trace: NonZeroU128,
    /// The span.
    pub span: NonZeroU64,
    /// Of [`SAMPLED`] and [`RANDOM`]; others have no meaning yet.
    flags: u8,
}

impl TraceContext {
    /// Of a trace that begins here, with random numbers, and is recorded.
    pub(super) fn begun(trace: NonZeroU128, span: NonZeroU64) -> Self {
        Self { trace, span, flags: SAMPLED | RANDOM }
    }

    /// Of a span below this one.
    pub(super) fn child(self, span: NonZeroU64) -> Self {
        Self { span, ..self }
    }

    /// Whether whoever began the trace wants it recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// As OTLP has them.
    pub(super) fn flags(&self) -> u8 {
        self.flags
    }

    /// The one that a head has; `None` if it has none, more than one, or one that cannot be read.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Reads the value of `traceparent`. Of a later version what version 0 has is read.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(BYTES)?;
        let version = u8::try_from(hex(&known[..2])?).ok()?;
        let ends_well = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => matches!(rest, [] | [b'-', ..]),
        };
        let is_divided = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        if !ends_well || !is_divided {
            return None;
        }
        let flags = u8::try_from(hex(&known[53..55])?).ok()? & (SAMPLED | RANDOM);
        let span = u64::try_from(hex(&known[36..52])?).ok()?;
        Some(Self { trace: NonZeroU128::new(hex(&known[3..35])?)?, span: NonZeroU64::new(span)?, flags })
    }
}

/// The value of `traceparent`, in version 0.
impl fmt::Display for TraceContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Up to 32 lower-case hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// The example of the specification.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// What is handed on of it.
    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        let read = TraceContext::parse(value.as_bytes()).map(|context| context.to_string());
        assert_eq!(read.as_deref(), expected, "{value:?}");
    }

    #[test]
    fn a_context_is_read_as_the_specification_has_it() {
        check(EXAMPLE, Some(EXAMPLE));
        assert!(TraceContext::parse(EXAMPLE.as_bytes()).is_some_and(|context| context.is_sampled()));
        let unsampled = EXAMPLE.replace("-01", "-00");
        check(&unsampled, Some(&unsampled));
        assert!(TraceContext::parse(unsampled.as_bytes()).is_some_and(|context| !context.is_sampled()));
        // Flags that mean nothing yet are not handed on.
        check(&EXAMPLE.replace("-01", "-ff"), Some(&EXAMPLE.replace("-01", "-03")));
        // A later version begins alike.
        check(&EXAMPLE.replacen("00-", "cc-", 1), Some(EXAMPLE));
        check(&format!("{}-what-will-be", EXAMPLE.replacen("00-", "cc-", 1)), Some(EXAMPLE));
    }

    #[test]
    fn what_is_none_is_not_taken_over() {
        for wrong in [
            "",
            "00",
            &EXAMPLE[..54],
            &format!("{EXAMPLE}-"),
            &format!("{EXAMPLE}0"),
            &format!("{}x", EXAMPLE.replacen("00-", "cc-", 1)),
            &EXAMPLE.replacen("00-", "ff-", 1),
            &EXAMPLE.replacen("00-", "0G-", 1),
            &EXAMPLE.replace("4bf92f", "4BF92F"),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &EXAMPLE.replace("-01", "-1x"),
            &EXAMPLE.replace("00f0", "é0f"),
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_head_has_one_or_none() {
        let of = |values: &[&'static str]| {
            let fields = values.iter().map(|value| (TRACEPARENT, HeaderValue::from_static(value)));
            TraceContext::of(&fields.collect())
        };
        assert!(of(&[EXAMPLE]).is_some());
        assert_eq!((of(&[]), of(&[EXAMPLE, EXAMPLE])), (None, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = TraceContext::parse(&bytes);
        }

        #[test]
        fn what_is_read_is_written_alike(
            value in "(00|0[0-9a-f]|ff)-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3](-.{0,5})?|[0-9a-f-]{50,60}",
        ) {
            if let Some(context) = TraceContext::parse(value.as_bytes()) {
                let written = context.to_string();
                prop_assert_eq!(&written[2..53], &value[2..53]);
                prop_assert_eq!(TraceContext::parse(written.as_bytes()), Some(context));
            }
        }
    }
}
