//! Recorded requests of real clients, and their replay.
//!
//! A trace is a file of JSON lines, one request each, in the order in which they started. A replay keeps the
//! order within each connection, and starts no request before those that started earlier on other
//! connections; time is not replayed, so a replay is as fast as what it is replayed against.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::{fs, thread};

use serde::Deserialize;

use crate::{Blob, Client, Origin, Request};

/// The ranged reads of one blob by one client.
#[derive(Clone, Debug)]
pub struct Trace {
    name: String,
    reads: Vec<Read>,
}

/// One request.
#[derive(Clone, Debug)]
struct Read {
    connection: u32,
    range: Range<u64>,
}

/// A line of the file; what else stands there (time, status) is of no use to a replay.
#[derive(Deserialize)]
struct Line {
    conn: u32,
    range: String,
}

impl Trace {
    /// All recorded boots by nydusd.
    ///
    /// # Panics
    /// When the fixtures are not there or not traces.
    pub fn nydusd_boots() -> Vec<Trace> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/traces");
        let files = fs::read_dir(&fixtures).expect("the fixtures are here").map(|file| {
            file.expect("the fixtures can be listed").file_name().into_string().expect("names are plain")
        });
        let mut boots: Vec<_> = files.filter(|name| name.starts_with("nydusd-")).collect();
        boots.sort();
        assert!(!boots.is_empty(), "no boot in {}", fixtures.display());
        boots.iter().map(|name| Trace::read(&fixtures.join(name), name)).collect()
    }

    /// Its file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it reads, in the order of the starts.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.reads.iter().map(|read| read.range.clone())
    }

    /// A blob as long as the one it was recorded with: nydusd reads the tail first.
    pub fn blob(&self, origin: &Origin) -> Blob {
        let len = self.ranges().map(|range| range.end).max().expect("a trace is not empty");
        origin.blob(len, len)
    }

    /// Sends every request to `front` and checks every byte of the answers.
    ///
    /// # Panics
    /// On a wrong byte, a wrong status or an answer that ends early.
    pub fn replay(&self, front: SocketAddr, origin: &Origin, blob: &Blob) {
        self.replay_by(|| Client::new(front), origin, blob);
    }

    /// As [`Trace::replay`], each connection by a client of the caller's.
    ///
    /// # Panics
    /// As [`Trace::replay`].
    pub fn replay_by(&self, client: impl Fn() -> Client + Sync, origin: &Origin, blob: &Blob) {
        let mut connections: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, read) in self.reads.iter().enumerate() {
            connections.entry(read.connection).or_default().push(index);
        }
        let (turn, client) = (&Turn::default(), &client);
        thread::scope(|scope| {
            for indices in connections.values() {
                scope.spawn(move || {
                    let _opened = OpenedByPanic(turn);
                    let mut client = client();
                    for &index in indices {
                        let range = self.reads[index].range.clone();
                        turn.wait(index);
                        let read = blob.read_as(&mut client, self.request(origin, blob), range.clone());
                        read.unwrap_or_else(|error| panic!("{} {range:?}: {error}", self.name));
                    }
                });
            }
        });
    }

    /// As that client addresses the front: as a proxy, or as a mirror with the registry in a header.
    fn request(&self, origin: &Origin, blob: &Blob) -> Request {
        if self.name.contains("-proxy") {
            let host = origin.registry().host();
            Request::get(format!("http://{host}{}", blob.target())).header("Host", host)
        } else {
            blob.get().header("X-Dragonfly-Registry", origin.url())
        }
    }

    fn read(file: &Path, name: &str) -> Trace {
        let text = fs::read_to_string(file).expect("a fixture can be read");
        let reads = text.lines().map(|line| {
            let line: Line = serde_json::from_str(line).expect("a line of a trace");
            let bytes = line.range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            let (first, last) = bytes.expect("nydusd asks for one range with both ends");
            let offset = |text: &str| text.parse::<u64>().expect("an offset");
            Read { connection: line.conn, range: offset(first)..offset(last) + 1 }
        });
        Trace { name: name.trim_end_matches(".jsonl").to_owned(), reads: reads.collect() }
    }
}

/// Lets requests start in the order of their numbers.
#[derive(Default)]
struct Turn {
    started: Mutex<usize>,
    changed: Condvar,
}

impl Turn {
    /// Returns when all requests before number `index` have been let go, and lets the next one go.
    fn wait(&self, index: usize) {
        let started = self.started.lock().expect("no holder panics");
        let mut started =
            self.changed.wait_while(started, |started| *started < index).expect("no holder panics");
        *started = started.saturating_add(1);
        self.changed.notify_all();
    }
}

/// A connection that fails leaves requests unsent; nobody may wait for them, or the failure would not be
/// seen.
struct OpenedByPanic<'turn>(&'turn Turn);

impl Drop for OpenedByPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            *self.0.started.lock().expect("no holder panics") = usize::MAX;
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boot_can_be_read_from_the_registry_itself() {
        for trace in Trace::nydusd_boots() {
            let origin = Origin::start();
            let blob = trace.blob(&origin);
            trace.replay(origin.registry().host().parse().expect("an address"), &origin, &blob);
            assert_eq!(origin.blob_bytes(), trace.ranges().map(|range| range.end - range.start).sum::<u64>());
        }
    }
}
