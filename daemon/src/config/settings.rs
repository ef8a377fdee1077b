//! The checked configuration: every value with its type and unit. Nothing in here needs a second look.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use darter_engine::store::ScrubOptions;
use darter_transport::lane::Lanes;
use darter_transport::node::{Role, ZONE_BYTES_MAX};
use darter_transport::wire::Text;
use url::Url;

use super::cluster::{Advertise, IdentitySource, JoinTarget};
use super::listed::ListedRegistry;
use super::registry::{Registry, RegistryHost};
use super::rules::Rules;
use super::token::TokenSetting;
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
    /// Where `/server/ping`, `/healthz`, `/readyz` and `/metrics` are.
    pub admin: SocketAddr,
    /// With what other machines may change something there; `None`: with nothing.
    pub admin_token: Option<TokenSetting>,
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
    /// The cluster that this node belongs to; `None`: it has no identity, is its own seed and speaks to nobody.
    pub cluster: Option<ClusterSettings>,
    /// What holds the process when it runs.
    pub sandbox: SandboxSettings,
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
    /// Where what is recorded of requests goes; `None`: nothing is.
    pub tracing: Option<TracingSettings>,
    /// Where profiles are served, on loopback; `None`: nowhere.
    pub pprof_port: Option<u16>,
    /// How long content is kept that nobody reads; `None`: until its space is needed.
    pub ttl: Option<Duration>,
}

impl Settings {
    /// Where profiles are served: on loopback, whatever listens elsewhere.
    #[must_use]
    pub fn profiles(&self) -> Option<SocketAddr> {
        self.pprof_port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

/// How a node belongs to a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterSettings {
    /// What it does there. Its identity is one for this role.
    pub role: Role,
    /// By which the other nodes know it, and it them.
    pub identity: IdentitySource,
    /// Where it takes connections of other nodes, by UDP and TCP; port 0: the system chooses.
    pub listen: SocketAddr,
    /// Where other nodes reach it; see [`advertised`](Self::advertised).
    pub advertise: Option<Advertise>,
    /// Where seeds are. A seed that is the first one names none; a peer names at least one.
    pub join: Vec<JoinTarget>,
    /// Nodes of one zone are near each other; empty: nobody has said.
    pub zone: Text<ZONE_BYTES_MAX>,
    /// By which lanes it reaches other nodes.
    pub lanes: Lanes,
    /// What other nodes may take of this one and bring to it.
    pub limits: ClusterLimits,
}

impl ClusterSettings {
    /// Where other nodes reach this one that has bound its socket to `bound`, which is [`listen`](Self::listen) with
    /// the port that the system chose.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> SocketAddr {
        match self.advertise {
            Some(Advertise { ip, port }) => SocketAddr::new(ip, port.unwrap_or(bound.port())),
            None => bound,
        }
    }
}

/// What moves between this node and others at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterLimits {
    /// Bytes per second that this node sends, to all nodes together; `None`: no limit.
    pub upload_bytes_per_s: Option<u64>,
    /// Bytes per second that this node takes, of all nodes together; `None`: no limit.
    pub download_bytes_per_s: Option<u64>,
    /// Requests of other nodes for blocks that are answered at a time, 1 to 4096.
    pub concurrent_uploads: usize,
}

/// Of which requests what is recorded, and where it goes.
#[derive(Clone, PartialEq, Debug)]
pub struct TracingSettings {
    /// The whole URL that spans are sent to, by OTLP over HTTP.
    pub endpoint: Url,
    /// Of requests that come without a trace so much is recorded, 0 to 1.
    pub sample_ratio: f64,
}

/// What holds the process when it runs, so that who breaks into it gains little.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SandboxSettings {
    /// Whether it is held.
    pub mode: SandboxMode,
    /// Name or number of the user that the daemon becomes; `None`: it stays what it is.
    pub user: Option<String>,
}

/// Whether the process gives up what it does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    /// As far as the kernel can.
    Auto,
    /// Not at all.
    Off,
    /// In full; where the kernel cannot, the daemon does not start.
    Required,
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

impl FromStr for SandboxMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "required" => Ok(Self::Required),
            _ => Err("not a mode of the sandbox"),
        }
    }
}

impl fmt::Display for SandboxMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Required => "required",
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
