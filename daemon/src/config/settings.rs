//! The checked configuration: every value with its type and unit. Nothing in here needs a second look.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use darter_engine::store::ScrubOptions;

use super::listed::ListedRegistry;
use super::registry::{Registry, RegistryHost};
use super::rules::Rules;
use crate::access::Lasting;

/// What `darter serve` runs by. docs/configuration.md says which key and flag each field comes from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where slabs and records are kept. A relative path is relative to the working directory.
    pub data_dir: PathBuf,
    /// Bytes that are reserved for content; `None`: the engine decides by the free space.
    pub capacity_bytes: Option<u64>,
    /// Where nydusd and containerd connect.
    pub front: SocketAddr,
    /// Where `/server/ping` and `/metrics` are.
    pub admin: SocketAddr,
    /// The upstream of requests that name none.
    pub registry: Registry,
    /// Whether a request may name its upstream, by `X-Dragonfly-Registry` or `ns`.
    pub registry_dynamic: bool,
    /// Registries that may be asked although they are private addresses or the front is open to others; those
    /// that are listed too.
    pub allowed_registries: Vec<RegistryHost>,
    /// Registries that are spoken to in a way of their own.
    pub registries: Vec<ListedRegistry>,
    /// Which GETs go through the cache.
    pub rules: Rules,
    /// Query parameters that do not tell contents apart.
    pub filter_params: Vec<String>,
    /// Whether an origin that is not listed must prove who it is. False only by `proxy.security.insecure`.
    pub origin_tls_verified: bool,
    /// For how long what a registry confirmed about readers holds.
    pub access: Lasting,
    /// Whether a ranged request brings in the rest of its blob.
    pub prefetch: bool,
    /// What prefetch may take of the origin's link, in bytes per second, all blobs together.
    pub prefetch_bytes_per_s: u64,
    /// Threads that serve; `None`: by the CPUs that the process may use. At most 256: a connection id holds
    /// its shard in one byte.
    pub shards: Option<NonZeroUsize>,
    /// Which I/O the engine uses.
    pub io: IoChoice,
    /// How what is kept is checked ahead of its readers.
    pub scrub: ScrubOptions,
    /// How the daemon reports what it does.
    pub log: LogSettings,
    /// Whether `/metrics` is served.
    pub metrics: bool,
    /// Where profiles will be served; accepted so that configurations carry over, not used by this version.
    pub pprof_port: Option<u16>,
    /// How long content is kept that nobody reads; `None`: until its space is needed.
    pub ttl: Option<Duration>,
}

/// How the daemon reports what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// For people or for machines.
    pub format: LogFormat,
    /// Debug messages too.
    pub verbose: bool,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Aligned words.
    Text,
    /// One JSON object per line.
    Json,
}

/// Which I/O the engine uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoChoice {
    /// The ring where the kernel allows it, else the pool.
    Auto,
    /// io_uring; where it is denied the daemon does not start.
    Ring,
    /// Threads with pread and pwrite.
    Pool,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not a log format"),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for IoChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "ring" => Ok(Self::Ring),
            "pool" => Ok(Self::Pool),
            _ => Err("not a way of doing I/O"),
        }
    }
}

impl fmt::Display for IoChoice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Auto => "auto",
            Self::Ring => "ring",
            Self::Pool => "pool",
        })
    }
}
