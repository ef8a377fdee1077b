//! The registry as a scenario sees it: blobs whose every byte is known, and the bill for what was read of
//! them.

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use darter::demo::registry::{self, Faults, Registry, RegistryOptions, RequestLine};

use crate::{Client, Reading, Request, wait_until};

/// The unit in which the daemon fetches on demand, and so the unit of the bill. Stated here on its own, not
/// taken from the engine: the promise to the registry's owner is in these 64 KiB.
pub const BLOCK_BYTES: u64 = 64 << 10;

/// Where every blob is.
pub(crate) const REPOSITORY: &str = "library/scenario";
/// The registry is quiet when nothing has been asked or sent for that long.
const QUIET: Duration = Duration::from_millis(500);
/// How much of a body is compared at once.
const PART_BYTES: usize = 256 << 10;

/// A registry on loopback that counts. Stops when dropped.
#[derive(Debug)]
pub struct Origin {
    registry: Registry,
}

impl Origin {
    /// A registry as fast as loopback goes.
    pub fn start() -> Origin {
        Origin::with(RegistryOptions::default())
    }

    /// A registry that is slow, redirects or misbehaves.
    pub fn with(options: RegistryOptions) -> Origin {
        Origin { registry: Registry::start(options).expect("a registry can listen on loopback") }
    }

    /// The registry itself.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.registry.url()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.registry.host().parse().expect("an address")
    }

    /// Puts in a blob of `len` bytes that depend on `seed` alone.
    pub fn blob(&self, seed: u64, len: u64) -> Blob {
        self.add(registry::Blob::synthetic(seed, len))
    }

    /// Puts in any blob.
    pub fn add(&self, content: registry::Blob) -> Blob {
        self.add_to(REPOSITORY, content)
    }

    /// Puts a blob into another repository.
    pub fn add_to(&self, repository: &str, content: registry::Blob) -> Blob {
        self.registry.add_blob(repository, content.clone());
        Blob::in_repository(repository, content)
    }

    /// Puts the same blob into another repository as well.
    pub fn mount(&self, repository: &str, blob: &Blob) -> Blob {
        self.add_to(repository, blob.content.clone())
    }

    /// What goes wrong from now on.
    pub fn faults(&self, faults: Faults) {
        self.registry.set_faults(faults);
    }

    /// Body bytes of blobs sent since the start or the last [`Origin::forget`].
    pub fn blob_bytes(&self) -> u64 {
        self.registry.counts().blob_get.body_bytes
    }

    /// Starts a new bill.
    pub fn forget(&self) {
        self.registry.reset_counts();
    }

    /// Waits until nobody has asked anything for half a second.
    ///
    /// # Panics
    /// After a minute of unrest.
    pub fn wait_until_quiet(&self) {
        let (mut counts, mut since) = (self.registry.counts(), Instant::now());
        let quiet = || {
            let now = self.registry.counts();
            if now != counts {
                (counts, since) = (now, Instant::now());
            }
            since.elapsed() >= QUIET
        };
        wait_until(Duration::from_secs(60), quiet, || "the registry is still being asked".to_owned());
    }

    /// How many bytes of each block of `blob` have been sent.
    ///
    /// # Panics
    /// When there were more requests than the registry keeps.
    pub fn bytes_by_block(&self, blob: &Blob) -> Vec<u64> {
        let requests = self.registry.requests();
        assert!(requests.len() < RequestLine::KEPT, "more requests than the registry remembers");
        let mut sent = vec![0; usize::try_from(blob.len().div_ceil(BLOCK_BYTES)).expect("a small blob")];
        for request in requests.iter().filter(|request| request.target.starts_with(&blob.target)) {
            let start = first_byte(request);
            for (block, part) in by_block(start..start + request.body_bytes) {
                sent[block] += part;
            }
        }
        sent
    }
}

/// A blob at the origin, every byte of which is known.
#[derive(Clone, Debug)]
pub struct Blob {
    content: registry::Blob,
    target: String,
}

impl Blob {
    /// A blob that no registry has yet, of `len` bytes that depend on `seed` alone.
    pub fn synthetic(seed: u64, len: u64) -> Blob {
        Blob::of(registry::Blob::synthetic(seed, len))
    }

    fn of(content: registry::Blob) -> Blob {
        Blob::in_repository(REPOSITORY, content)
    }

    fn in_repository(repository: &str, content: registry::Blob) -> Blob {
        let target = format!("/v2/{repository}/blobs/{}", content.digest());
        Blob { content, target }
    }

    /// The path under which registry and front have it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What it contains, as the registry keeps it.
    pub fn content(&self) -> &registry::Blob {
        &self.content
    }

    /// The address of the same digest in a repository that need not have it.
    pub fn target_in(&self, repository: &str) -> String {
        format!("/v2/{repository}/blobs/{}", self.content.digest())
    }

    /// `sha256:…`
    pub fn digest(&self) -> String {
        self.content.digest().to_string()
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no scenario has an empty blob")]
    pub fn len(&self) -> u64 {
        self.content.len()
    }

    /// Every byte.
    pub fn whole(&self) -> Range<u64> {
        0..self.len()
    }

    /// A GET of all of it.
    pub fn get(&self) -> Request {
        Request::get(&self.target)
    }

    /// A GET of this part of it.
    pub fn get_range(&self, range: Range<u64>) -> Request {
        self.get().range(range)
    }

    /// What `range` contains.
    pub fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).expect("a small range")];
        self.content.read_exact_at(&mut bytes, range.start).expect("the range is within the blob");
        bytes
    }

    /// How many bytes the blocks have that `ranges` touch, each counted once: what a boot may cost.
    pub fn touched(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> u64 {
        let mut touched = std::collections::BTreeSet::new();
        touched.extend(ranges.into_iter().flat_map(by_block).map(|(block, _)| block as u64));
        touched.into_iter().map(|block| BLOCK_BYTES.min(self.len() - block * BLOCK_BYTES)).sum()
    }

    /// Asks for `range` and compares every byte of the answer.
    ///
    /// 503 says that the daemon could not have the bytes in the 3.5 s for which nydusd waits, and to come
    /// again; on a machine that runs many tests at once that is no fault, and what has come is kept. So it is
    /// asked again.
    ///
    /// # Errors
    /// What the socket says. The bytes that came before were right.
    ///
    /// # Panics
    /// As [`Blob::check`], and when it is still 503 after a minute.
    pub fn read(&self, client: &mut Client, range: Range<u64>) -> io::Result<()> {
        self.read_as(client, self.get(), range)
    }

    /// As [`Blob::read`], with a request of the caller's: a target in another form, further headers.
    ///
    /// # Errors
    /// As [`Blob::read`].
    ///
    /// # Panics
    /// As [`Blob::read`].
    pub fn read_as(&self, client: &mut Client, request: Request, range: Range<u64>) -> io::Result<()> {
        let request = request.range(range.clone());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let reading = client.send(&request)?;
            if reading.head().status != 503 || Instant::now() > deadline {
                return self.check(reading, range);
            }
            eprintln!("503, again: {} {range:?}", self.target);
            reading.finish()?;
        }
    }

    /// Reads the body of an answer to its end and compares it with `range`.
    ///
    /// # Errors
    /// What the socket says. The bytes that came before were right.
    ///
    /// # Panics
    /// On any other status than 200 or 206, a wrong byte, or a body of another length.
    pub fn check(&self, reading: Reading<'_>, range: Range<u64>) -> io::Result<()> {
        let (mut reading, mut at) = (reading, range.start);
        let head = reading.head();
        let status = if range == self.whole() { &[200, 206][..] } else { &[206] };
        assert!(status.contains(&head.status), "{} {range:?}: {head:?}", self.target);
        // What passes through without a length comes in chunks.
        let announced =
            head.content_length().or(head.header("Transfer-Encoding").map(|_| range.end - range.start));
        assert_eq!(announced, Some(range.end - range.start), "{} {range:?}", self.target);
        let mut part = vec![0; PART_BYTES];
        loop {
            let got = match reading.read(&mut part) {
                // Unlike other calls, a read with a timeout is not taken up again after a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                got => got?,
            };
            if got == 0 {
                break;
            }
            let expected = self.bytes(at..at + got as u64);
            // Equality of slices is fast without optimisation too; the search is for the message.
            if part[..got] != expected {
                let right = part.iter().zip(&expected).take_while(|(got, expected)| got == expected).count();
                panic!("{} {range:?}: wrong byte at {}", self.target, at + right as u64);
            }
            at += got as u64;
        }
        assert_eq!(at, range.end, "{} {range:?}: the body has another length", self.target);
        Ok(())
    }
}

/// The blocks of a range, with how many bytes of the range lie in each.
fn by_block(range: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    (range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)).map(move |block| {
        let start = range.start.max(block * BLOCK_BYTES);
        let end = range.end.min((block + 1) * BLOCK_BYTES);
        (usize::try_from(block).expect("a small blob"), end - start)
    })
}

/// Where the body of an answer began.
fn first_byte(request: &RequestLine) -> u64 {
    let range = request.range.as_deref().filter(|_| request.status == 206);
    range.map_or(0, |range| {
        let first = range.strip_prefix("bytes=").and_then(|range| range.split('-').next());
        first.and_then(|first| first.parse().ok()).unwrap_or_else(|| panic!("a daemon's own range: {range}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_is_in_blocks() {
        let origin = Origin::start();
        let blob = origin.blob(1, 3 * BLOCK_BYTES + 10);
        let mut client = Client::new(origin.registry().host().parse().expect("an address"));
        for range in [10..20, BLOCK_BYTES - 1..BLOCK_BYTES + 1, 3 * BLOCK_BYTES..blob.len()] {
            let reading = client.send(&blob.get_range(range.clone())).expect("the registry answers");
            blob.check(reading, range).expect("the registry answers");
        }
        assert_eq!(origin.bytes_by_block(&blob), [11, 1, 0, 10]);
        assert_eq!(blob.touched([10..20, 5..BLOCK_BYTES, 3 * BLOCK_BYTES..blob.len()]), BLOCK_BYTES + 10);
    }

    #[test]
    #[should_panic(expected = "wrong byte at 70000")]
    fn one_wrong_byte_is_seen() {
        let origin = Origin::start();
        let blob = origin.blob(1, 100_000);
        origin.faults(Faults { flip_byte_at: Some(70_000), ..Faults::default() });
        let mut client = Client::new(origin.registry().host().parse().expect("an address"));
        let reading = client.send(&blob.get()).expect("the registry answers");
        let _ = blob.check(reading, blob.whole());
    }
}
