//! What a client reads of a lazily loaded image while it boots, and when.
//!
//! The trace that is compiled in was recorded between an unchanged nydusd 2.1.1 and a registry on loopback:
//! a container with Python on RAFS v6 boots, without prefetch, and reads 266 ranges of its one blob over one
//! connection. `tests/fixtures/traces/nydusd-2.1.1-rafs6-boot.jsonl` is the whole record; here are the
//! connection, the pause before each read, and the range.
//!
//! The pauses are times between the starts of two reads. They include what the recording registry took to
//! answer, below a millisecond for most, so a replay thinks a little longer than nydusd did, and equally long
//! whoever answers.

use std::ops::Range;
use std::time::Duration;

/// The boot described above.
const BOOT: &str = include_str!("boot.trace");

/// Reads in the order in which they began, by connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// Each connection reads one range after the other.
    pub(super) connections: Vec<Vec<Read>>,
}

/// One ranged read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// How long the client is busy with itself before it asks.
    pub(super) pause: Duration,
    pub(super) range: Range<u64>,
}

impl Trace {
    pub(super) fn boot() -> Self {
        Self::parse(BOOT).expect("the compiled-in trace is right")
    }

    /// Reads lines of `connection pause_ms first-last`; `#` begins a comment. Connections are numbered from 0
    /// in the order of their first read. `None` where a line is anything else.
    fn parse(text: &str) -> Option<Self> {
        let mut connections: Vec<Vec<Read>> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut fields = line.split_ascii_whitespace();
            let connection: usize = fields.next()?.parse().ok()?;
            let pause = Duration::from_millis(fields.next()?.parse().ok()?);
            let (first, last) = fields.next()?.split_once('-')?;
            let range = first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
            if range.is_empty() || connection > connections.len() {
                return None;
            }
            if connection == connections.len() {
                connections.push(Vec::new());
            }
            connections[connection].push(Read { pause, range });
        }
        Some(Self { connections })
    }

    pub(super) fn reads(&self) -> impl Iterator<Item = &Read> {
        self.connections.iter().flatten()
    }

    /// Bytes asked for, those asked for twice counted twice.
    pub(super) fn bytes(&self) -> u64 {
        self.reads().map(|read| read.range.end - read.range.start).sum()
    }

    /// Length of the shortest blob that has all the ranges. The boot's first read is the table at the blob's
    /// end, so for it this is the blob's length.
    pub(super) fn blob_len(&self) -> u64 {
        self.reads().map(|read| read.range.end).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_boot() {
        let boot = Trace::boot();
        assert_eq!(boot.connections.len(), 1);
        assert_eq!(boot.reads().count(), 266);
        assert_eq!(boot.bytes(), 14_755_160);
        assert_eq!(boot.blob_len(), 117_773_874);
        assert_eq!(boot.connections[0][0].range, 117_610_443..117_773_874, "the tail comes first");
        let thinking: Duration = boot.reads().map(|read| read.pause).sum();
        assert!((1.0..2.0).contains(&thinking.as_secs_f64()), "{thinking:?}");
    }

    #[test]
    fn connections_keep_their_own_order() {
        let trace = Trace::parse("# c\n0 0 5-9\n1 3 0-0\n0 2 10-19\n").unwrap();
        let read = |pause_ms, range| Read { pause: Duration::from_millis(pause_ms), range };
        assert_eq!(trace.connections, [vec![read(0, 5..10), read(2, 10..20)], vec![read(3, 0..1)]]);
    }

    #[test]
    fn other_lines_are_refused() {
        for text in ["", " ", "0 0", "0 0 9-5", "1 0 0-1", "0 -1 0-1", "0 0 0-18446744073709551615"] {
            let line = format!("{text}\n");
            assert_eq!(Trace::parse(&line), None, "{text:?}");
        }
    }
}
