//! What is asked for.

use std::fmt;

use serde::Serialize;

/// One kind of request, sent over and over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Workload {
    /// Ranges of so many bytes, anywhere in the blob, on no boundary of anything.
    Ranges {
        /// Length of each.
        bytes: u64,
    },
    /// The blob without a `Range`, as containerd pulls a layer.
    Whole,
}

impl Workload {
    /// Median of nydusd 2.1.1.
    pub(crate) const SMALL: Self = Self::Ranges { bytes: 11_500 };
    /// The same with its prefetch.
    pub(crate) const MIDDLE: Self = Self::Ranges { bytes: 128 << 10 };
    /// nydusd 2.3 and later.
    pub(crate) const LARGE: Self = Self::Ranges { bytes: 1 << 20 };
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::SMALL, Self::MIDDLE, Self::LARGE, Self::Whole];
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ranges { bytes } if bytes % (1 << 20) == 0 => write!(out, "ranges of {} MiB", bytes >> 20),
            Self::Ranges { bytes } if bytes % (1 << 10) == 0 => write!(out, "ranges of {} KiB", bytes >> 10),
            Self::Ranges { bytes } => write!(out, "ranges of {} KB", *bytes as f64 / 1e3),
            Self::Whole => out.write_str("whole blob"),
        }
    }
}

/// The blob and how it is named in requests, the same to every server.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// `/v2/NAME/blobs/sha256:…`
    pub(crate) path: String,
    /// Length.
    pub(crate) bytes: u64,
    /// The registry that it is from; nydusd sends it, nginx ignores it.
    pub(crate) registry: String,
}

/// A request on the wire, and what must come back.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Head, without a body.
    pub(crate) head: String,
    /// Status of the right answer.
    pub(crate) status: u16,
    /// First byte and length of the right body.
    pub(crate) start: u64,
    /// Its length.
    pub(crate) bytes: u64,
}

impl Subject {
    /// The next request of a workload.
    pub(crate) fn request(&self, workload: Workload, random: &mut fastrand::Rng) -> Request {
        match workload {
            Workload::Ranges { bytes } => self.range(random.u64(..=self.bytes - bytes), bytes),
            Workload::Whole => self.whole(),
        }
    }

    /// The request of a range.
    pub(crate) fn range(&self, start: u64, bytes: u64) -> Request {
        let range = format!("Range: bytes={start}-{}\r\n", start + bytes - 1);
        Request { head: self.head(&range), status: 206, start, bytes }
    }

    /// The request of all of it.
    pub(crate) fn whole(&self) -> Request {
        Request { head: self.head(""), status: 200, start: 0, bytes: self.bytes }
    }

    fn head(&self, range: &str) -> String {
        let (path, registry) = (&self.path, &self.registry);
        format!(
            "GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\nX-Dragonfly-Registry: {registry}\r\n{range}\r\n"
        )
    }
}
