//! Numbers as people read and write them on the demo's command line and chart. Bytes are in powers of 1000
//! here, because next to them stand rates, which the field gives in MB/s.

use std::time::Duration;

use crate::config::size::{ByteSize, SizeError};

const IMAGE_BYTES_MAX: u64 = 1_000_000_000_000;

/// `61 ms`, `4.92 s`: three significant digits.
pub(super) fn time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..9.995 => format!("{ms:.2} ms"),
        ..99.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        ..9_995.0 => format!("{:.2} s", ms / 1e3),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// `535 B`, `32.7 MB`
pub(super) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, "B")
}

/// `94.6 MB/s`
pub(super) fn rate(bytes: u64, time: Duration) -> String {
    scaled(bytes as f64 / time.as_secs_f64().max(1e-9), "B/s")
}

fn scaled(value: f64, unit: &str) -> String {
    let (value, prefix) = match value {
        ..999.5 => return format!("{value:.0} {unit}"),
        ..999.5e3 => (value / 1e3, 'k'),
        ..999.5e6 => (value / 1e6, 'M'),
        _ => (value / 1e9, 'G'),
    };
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {prefix}{unit}")
}

/// Reads `40ms`, `1.5s`, `0`.
pub(super) fn parse_time(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a time such as 40ms or 1.5s";
    let (number, unit_s) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1e-3),
        (None, Some(number)) => (number, 1.0),
        (None, None) if text == "0" => ("0", 1.0),
        (None, None) => return Err(EXPECTED),
    };
    let number: f64 = number.trim_end().parse().map_err(|_| EXPECTED)?;
    Duration::try_from_secs_f64(number * unit_s).map_err(|_| EXPECTED)
}

/// Reads `500MB`, up to a terabyte: a generated image is hashed before it is served.
pub(super) fn parse_image_size(text: &str) -> Result<u64, String> {
    match text.parse().map_err(|error: SizeError| error.to_string())? {
        ByteSize(bytes @ ..=IMAGE_BYTES_MAX) => Ok(bytes),
        ByteSize(_) => Err("expected at most 1TB".into()),
    }
}

/// Body bytes per second, or as fast as loopback goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bandwidth(pub(super) Option<u64>);

/// Reads `100MB/s`, `100MB` and `unlimited`.
pub(super) fn parse_bandwidth(text: &str) -> Result<Bandwidth, String> {
    if text == "unlimited" {
        return Ok(Bandwidth(None));
    }
    let size = text.strip_suffix("/s").unwrap_or(text).parse::<ByteSize>();
    match size {
        Ok(ByteSize(0)) => Err("nothing would ever arrive; write unlimited for no limit".into()),
        Ok(ByteSize(bytes)) => Ok(Bandwidth(Some(bytes))),
        Err(error) => Err(format!("{error}; expected a rate such as 100MB/s, or unlimited")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |us: u64, text: &str| assert_eq!(time(Duration::from_micros(us)), text);
        check(0, "0.00 ms");
        check(340, "0.34 ms");
        check(9_996, "10.0 ms");
        check(61_400, "61.4 ms");
        check(999_600, "1.00 s");
        check(4_917_000, "4.92 s");
        check(61_000_000, "61.0 s");
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(535), "535 B");
        assert_eq!(bytes(32_713_237), "32.7 MB");
        assert_eq!(bytes(999_600), "1.00 MB");
        assert_eq!(rate(500_000_000, Duration::from_millis(250)), "2.00 GB/s");
        assert_eq!(rate(0, Duration::ZERO), "0 B/s");
    }

    #[test]
    fn flags() {
        assert_eq!(parse_time("40ms"), Ok(Duration::from_millis(40)));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("0"), Ok(Duration::ZERO));
        for text in ["", "40", "ms", "-1s", "infs", "NaNs"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        assert_eq!(parse_bandwidth("100MB/s"), Ok(Bandwidth(Some(100_000_000))));
        assert_eq!(parse_bandwidth("1MiB"), Ok(Bandwidth(Some(1 << 20))));
        assert_eq!(parse_bandwidth("unlimited"), Ok(Bandwidth(None)));
        assert_eq!(parse_image_size("1TB"), Ok(1_000_000_000_000));
        assert!(parse_image_size("1TiB").is_err());
        assert!(parse_bandwidth("0").is_err());
        assert!(parse_bandwidth("fast").is_err());
    }
}
