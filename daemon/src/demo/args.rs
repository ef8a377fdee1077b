//! The flags of `darter demo`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};

use super::ports::NODES_MAX;
use super::units::{Bandwidth, parse_bandwidth, parse_image_size, parse_time};

/// Beside the seed.
const PEERS_MAX: i64 = NODES_MAX as i64 - 1;

/// The flags of `darter demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Pull the image of this OCI layout (as of `skopeo copy docker://… oci:DIR`) instead of a generated one;
    /// the lazy boot always reads a generated blob, and all peers at once pull a generated image of its size
    #[arg(long, value_name = "OCI-LAYOUT", conflicts_with = "size")]
    pub(super) image: Option<PathBuf>,
    /// Size of the generated image's layers together
    #[arg(long, value_name = "SIZE", default_value = "200MB", value_parser = parse_image_size)]
    pub(super) size: u64,
    /// Run so many peers beside the seed, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u8).range(1..=PEERS_MAX))]
    pub(super) peers: u8,
    /// Let the registry wait this long before each answer
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = parse_time)]
    pub(super) latency: Duration,
    /// Let the registry send this much over all connections together, or unlimited
    #[arg(long, value_name = "RATE", default_value = "100MB/s", value_parser = parse_bandwidth)]
    pub(super) bandwidth: Bandwidth,
    /// Let the registry redirect every blob to a storage host, as public registries do
    #[arg(long)]
    pub(super) redirect: bool,
    /// Let darter fetch the rest of a blob of which something was read
    #[arg(long)]
    pub(super) prefetch: bool,
    /// Make the caches' directory below this one [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(super) temp_dir: Option<PathBuf>,
    /// Print the measurements as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Leave everything running afterwards, and print commands to try
    #[arg(long)]
    pub(super) stay: bool,
}
