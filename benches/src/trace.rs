//! Recorded boots of nydusd, as the system tests keep them: `tests/tests/fixtures/traces`.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// The ranged reads of one blob by one client, in the order in which they started.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// Its file's, without the ending.
    pub(crate) name: String,
    pub(crate) reads: Vec<Read>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// Numbered from 0 without gaps.
    pub(crate) connection: usize,
    pub(crate) range: Range<u64>,
}

/// A line of the file. Pauses and statuses are of no use to a replay.
#[derive(Deserialize)]
struct Line {
    conn: u32,
    range: String,
}

/// The boot of 266 small serial reads without prefetch, which has the strictest goal.
pub(crate) const SMALL_READS: &str = "nydusd-2.1.1-rafs6-boot";

impl Trace {
    /// All recorded boots.
    pub(crate) fn boots() -> anyhow::Result<Vec<Self>> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests/fixtures/traces");
        let mut boots = Vec::new();
        for file in fs::read_dir(&fixtures).with_context(|| format!("cannot read {}", fixtures.display()))? {
            let path = file?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("nydusd-") {
                let text = fs::read_to_string(&path)?;
                boots.push(Self::parse(&name, &text).with_context(|| format!("{name} is no trace"))?);
            }
        }
        ensure!(!boots.is_empty(), "no boot in {}", fixtures.display());
        boots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(boots)
    }

    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        let reads = text.lines().map(|line| {
            let line: Line = serde_json::from_str(line)?;
            let connection = connections.iter().position(|known| *known == line.conn).unwrap_or_else(|| {
                connections.push(line.conn);
                connections.len() - 1
            });
            let bytes = line.range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            let (first, last) = bytes.context("one range with both ends is expected")?;
            Ok(Read { connection, range: first.parse()?..last.parse::<u64>()? + 1 })
        });
        Ok(Self { name: name.to_owned(), reads: reads.collect::<anyhow::Result<_>>()? })
    }

    /// Only its first reads.
    pub(crate) fn beginning(mut self, reads: usize) -> Self {
        self.reads.truncate(reads);
        self
    }

    pub(crate) fn connections(&self) -> usize {
        self.reads.iter().map(|read| read.connection + 1).max().unwrap_or(0)
    }

    /// Length of a blob as it was recorded with: nydusd reads the tail first.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.reads.iter().map(|read| read.range.end).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_boots_are_read() {
        let boots = Trace::boots().unwrap();
        let small = boots.iter().find(|boot| boot.name == SMALL_READS).unwrap();
        assert_eq!((small.reads.len(), small.connections(), small.blob_bytes()), (266, 1, 117_773_874));
        assert!(boots.iter().all(|boot| boot.connections() > 0));
        assert_eq!(small.clone().beginning(3).reads.len(), 3);
    }

    #[test]
    fn connections_are_numbered_in_the_order_of_their_first_read() {
        let line = |conn, range| format!("{{\"conn\": {conn}, \"range\": \"{range}\"}}\n");
        let text = [line(7, "bytes=0-9"), line(3, "bytes=5-5"), line(7, "bytes=1-2")].concat();
        let trace = Trace::parse("t", &text).unwrap();
        let numbers: Vec<_> = trace.reads.iter().map(|read| read.connection).collect();
        assert_eq!((numbers, trace.reads[1].range.clone()), (vec![0, 1, 0], 5..6));
        assert!(Trace::parse("t", &line(0, "bytes=5-")).is_err());
    }
}
