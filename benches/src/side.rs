//! What is compared with what.

use std::fmt;

use serde::Serialize;

/// One side of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    /// `darter serve`.
    Darter,
    /// nginx with the blob as a static file, `sendfile on`.
    NginxSendfile,
    /// The same with `sendfile off`.
    NginxRead,
    /// nginx with `proxy_cache` and `slice 1m` before the registry.
    NginxCache,
    /// The client asks the registry itself.
    Registry,
    /// The first node of a cluster that boots an image.
    FirstNode,
    /// The second one, right behind it.
    SecondNode,
    /// The second one, when the cluster knows how the first one booted.
    ToldNode,
    /// A node's own store.
    OwnStore,
    /// The store of a node one hop away.
    OtherNode,
    /// Darter by QUIC.
    OverQuic,
    /// Darter by TLS on TCP.
    OverTcp,
    /// One stream of quinn's, hashed and written, and nothing else.
    BareQuinn,
    /// Darter without anything else to do.
    Quiet,
    /// Darter while it pulls another blob.
    Pulling,
    /// Darter whose metrics nobody can scrape, without spans.
    Unobserved,
    /// Darter whose metrics are scraped and whose spans are exported.
    Observed,
    /// Darter's S3-FIFO.
    S3Fifo,
    /// Least recently used goes first.
    Lru,
    /// What is wanted last, or never, goes first: nobody who does not know the future is better.
    Belady,
}

impl fmt::Display for Side {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Darter => "darter",
            Self::NginxSendfile => "nginx, sendfile on",
            Self::NginxRead => "nginx, sendfile off",
            Self::NginxCache => "nginx cache",
            Self::Registry => "straight to the registry",
            Self::FirstNode => "the first node",
            Self::SecondNode => "the second node",
            Self::ToldNode => "the second node, with a boot list",
            Self::OwnStore => "its own store",
            Self::OtherNode => "another node",
            Self::OverQuic => "darter, QUIC",
            Self::OverTcp => "darter, TCP",
            Self::BareQuinn => "bare quinn",
            Self::Quiet => "quiet",
            Self::Pulling => "beside a cold pull",
            Self::Unobserved => "unobserved",
            Self::Observed => "observed",
            Self::S3Fifo => "S3-FIFO",
            Self::Lru => "LRU",
            Self::Belady => "Belady",
        })
    }
}
