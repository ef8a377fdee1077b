//! The books: how often the registry was asked, for what, and how many body bytes it sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Requests and body bytes by what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// GETs answered with a blob, a part of it, or an error in its place.
    pub blob_get: Tally,
    /// HEADs of blobs.
    pub blob_head: Tally,
    /// Manifests, by tag or digest, GET or HEAD.
    pub manifest: Tally,
    /// Blob requests answered with a redirect to storage; the request at storage is counted as what it is.
    pub redirect: Tally,
    /// Everything else, `/v2/` included.
    pub other: Tally,
}

impl Counts {
    /// The sum over all kinds.
    pub fn total(&self) -> Tally {
        [self.blob_get, self.blob_head, self.manifest, self.redirect, self.other].into_iter().fold(
            Tally::default(),
            |sum, tally| Tally {
                requests: sum.requests + tally.requests,
                body_bytes: sum.body_bytes + tally.body_bytes,
            },
        )
    }

    fn tally(&mut self, kind: Kind) -> &mut Tally {
        match kind {
            Kind::BlobGet => &mut self.blob_get,
            Kind::BlobHead => &mut self.blob_head,
            Kind::Manifest => &mut self.manifest,
            Kind::Redirect => &mut self.redirect,
            Kind::Other => &mut self.other,
        }
    }
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Requests that were answered, whatever the status.
    pub requests: u64,
    /// Body bytes handed to the socket's writer. When a client leaves in the middle, up to 128 KiB of them
    /// did not reach it.
    pub body_bytes: u64,
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    BlobGet,
    BlobHead,
    Manifest,
    Redirect,
    Other,
}

/// One request, as a line of an access log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestLine {
    /// When it arrived, counted from the registry's start.
    pub at: Duration,
    /// Which connection it came on, counted from 0 over both listeners.
    pub connection: u64,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Its `Range` header.
    pub range: Option<String>,
    /// The status it was answered with.
    pub status: u16,
    /// Body bytes sent so far; see [`Tally::body_bytes`].
    pub body_bytes: u64,
}

impl RequestLine {
    /// How many lines are kept.
    pub const KEPT: usize = 16_384;
}

/// Counts and lines, shared by all connections.
#[derive(Debug)]
pub(super) struct Ledger {
    started: Instant,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    counts: Counts,
    lines: VecDeque<RequestLine>,
    /// Lines dropped from the front, so that an entry finds its line; grows with resets too.
    dropped: u64,
    /// Entries below this were made before the last reset.
    reset_at: u64,
}

/// A request that has been written down; body bytes are added to it as they go out.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    ledger: Arc<Ledger>,
    kind: Kind,
    number: u64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), pages: Mutex::default() }
    }

    /// Time since the start, for [`RequestLine::at`].
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn enter(self: &Arc<Self>, kind: Kind, line: RequestLine) -> Entry {
        let mut pages = self.pages();
        pages.counts.tally(kind).requests += 1;
        if pages.lines.len() == RequestLine::KEPT {
            pages.lines.pop_front();
            pages.dropped += 1;
        }
        pages.lines.push_back(line);
        let number = pages.dropped + pages.lines.len() as u64 - 1;
        Entry { ledger: Arc::clone(self), kind, number }
    }

    pub(super) fn counts(&self) -> Counts {
        self.pages().counts
    }

    pub(super) fn requests(&self) -> Vec<RequestLine> {
        self.pages().lines.iter().cloned().collect()
    }

    pub(super) fn reset(&self) {
        let mut pages = self.pages();
        pages.counts = Counts::default();
        pages.dropped += pages.lines.len() as u64;
        pages.reset_at = pages.dropped;
        pages.lines.clear();
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // Nothing panics half-way through a change, so a poisoned lock still guards whole values.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(super) fn sent(&self, bytes: u64) {
        let mut pages = self.ledger.pages();
        if self.number < pages.reset_at {
            return;
        }
        pages.counts.tally(self.kind).body_bytes += bytes;
        if let Some(index) = self.number.checked_sub(pages.dropped)
            && let Some(line) = pages.lines.get_mut(index as usize)
        {
            line.body_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> RequestLine {
        RequestLine {
            at: Duration::ZERO,
            connection: 0,
            method: "GET".into(),
            target: "/".into(),
            range: None,
            status: 200,
            body_bytes: 0,
        }
    }

    #[test]
    fn bytes_find_their_line_and_kind() {
        let ledger = Arc::new(Ledger::new());
        let first = ledger.enter(Kind::BlobGet, line());
        let second = ledger.enter(Kind::Manifest, line());
        second.sent(3);
        first.sent(5);
        first.sent(5);
        let bytes: Vec<_> = ledger.requests().iter().map(|line| line.body_bytes).collect();
        assert_eq!(bytes, [10, 3]);
        let counts = ledger.counts();
        assert_eq!(counts.blob_get, Tally { requests: 1, body_bytes: 10 });
        assert_eq!(counts.total(), Tally { requests: 2, body_bytes: 13 });
    }

    #[test]
    fn lines_are_bounded_and_counts_go_on() {
        let ledger = Arc::new(Ledger::new());
        let entries: Vec<_> = (0..RequestLine::KEPT + 2).map(|_| ledger.enter(Kind::Other, line())).collect();
        entries.iter().for_each(|entry| entry.sent(1));
        assert_eq!(ledger.requests().len(), RequestLine::KEPT);
        assert!(ledger.requests().iter().all(|line| line.body_bytes == 1));
        assert_eq!(ledger.counts().other.body_bytes, RequestLine::KEPT as u64 + 2);
    }

    #[test]
    fn a_reset_forgets_answers_under_way() {
        let ledger = Arc::new(Ledger::new());
        let before = ledger.enter(Kind::BlobGet, line());
        ledger.reset();
        let after = ledger.enter(Kind::BlobGet, line());
        before.sent(7);
        after.sent(1);
        assert_eq!(ledger.counts().blob_get, Tally { requests: 1, body_bytes: 1 });
        assert_eq!(ledger.requests().len(), 1);
    }
}
