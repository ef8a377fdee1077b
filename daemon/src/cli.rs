//! The command line: names of commands and flags, nothing about what they mean.
//!
//! A flag that overrides a key keeps its value as text; the configuration checks it together with the file, so
//! that `--capacity ten` and `capacity: ten` are answered alike.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::EXIT_STATUS;
use crate::commands::cluster::InitArgs;
use crate::commands::completions::CompletionsArgs;
use crate::commands::get::GetArgs;
use crate::commands::ls::LsArgs;
use crate::commands::man::ManArgs;
use crate::commands::peers::PeersArgs;
use crate::commands::pin::PinArgs;
use crate::commands::preheat::PreheatArgs;
use crate::commands::reload::ReloadArgs;
use crate::commands::rm::RmArgs;
use crate::commands::stat::StatArgs;
use crate::commands::top::TopArgs;
use crate::commands::verify::VerifyArgs;
use crate::config::{Inputs, Override};
use crate::demo::DemoArgs;
use crate::doctor::DoctorArgs;
use crate::init;

/// Container images that start fast: a node cache in front of registries, for nydusd and containerd.
#[derive(Debug, Parser)]
#[command(name = "darter", version, max_term_width = 100, after_help = EXIT_STATUS)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `darter`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon; without any flag or file it works with its defaults
    Serve(ServeArgs),
    /// Show what darter does for one node, on this machine and with nothing but this program
    Demo(DemoArgs),
    /// Fetch a blob, any other URL or a whole image through a running daemon; resumes what was cut
    #[command(after_help = EXIT_STATUS)]
    Get(GetArgs),
    /// List what a running daemon holds
    #[command(after_help = EXIT_STATUS)]
    Ls(LsArgs),
    /// Tell of a running daemon's store, or of one content in it
    #[command(after_help = EXIT_STATUS)]
    Stat(StatArgs),
    /// Remove contents from a running daemon's store
    #[command(after_help = EXIT_STATUS)]
    Rm(RmArgs),
    /// Keep a content from being evicted
    #[command(after_help = EXIT_STATUS)]
    Pin(PinArgs),
    /// Read through what is held, and compare it with its checksums and digests
    #[command(after_help = EXIT_STATUS)]
    Verify(VerifyArgs),
    /// Bring an image, or what is at a URL, into a cluster before anybody wants it
    #[command(after_help = EXIT_STATUS)]
    Preheat(PreheatArgs),
    /// List the nodes of a running daemon's cluster, and what flows between them and it
    #[command(after_help = EXIT_STATUS)]
    Peers(PeersArgs),
    /// Show live what a running daemon does: requests, bytes by source, what is coming, other nodes
    #[command(after_help = EXIT_STATUS)]
    Top(TopArgs),
    /// Have a running daemon read its configuration again, and tell what has changed
    #[command(after_help = EXIT_STATUS)]
    Reload(ReloadArgs),
    /// Check a configuration, or show what it comes to
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look whether a daemon with this configuration can run well on this machine, and say what to do where not
    #[command(after_help = EXIT_STATUS)]
    Doctor(DoctorArgs),
    /// Have containerd, docker, CRI-O, podman or nydus on this machine read through darter; --undo takes it back
    #[command(after_help = EXIT_STATUS)]
    Init(init::InitArgs),
    /// Prepare a cluster of nodes
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Print what a shell needs to complete commands and flags
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands
    Man(ManArgs),
}

/// The commands of `darter config`.
#[derive(Debug, Subcommand)]
// Parsed once per process; a box would only be in the way.
#[allow(clippy::large_enum_variant)]
pub enum ConfigCommand {
    /// Say whether a configuration file is right, and warn of what it brings about
    Check {
        /// The file to check
        file: PathBuf,
    },
    /// Print every value that `serve` with the same flags would use, and where it comes from
    Show(ShowArgs),
}

/// The commands of `darter cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Write the secrets by which the nodes of a cluster know each other
    #[command(after_help = EXIT_STATUS)]
    Init(InitArgs),
}

/// The flags of `darter config show`: those of `serve`, and how to print.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// What `serve` would be given.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The flags of `darter serve`. Each overrides the file's value.
#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// Read this YAML file; see docs/configuration.md
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep cached content here [default: the user's state directory; as root /var/lib/darter]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Reserve this much for content, such as 10GiB [default: 20 % of free space, at most 50GiB]
    #[arg(long, value_name = "SIZE")]
    pub capacity: Option<String>,
    /// Listen here for nydusd and containerd [default: 127.0.0.1:65001]
    #[arg(long, value_name = "ADDR", value_parser = socket_addr)]
    pub front: Option<SocketAddr>,
    /// Listen here for pings, metrics and commands [default: 127.0.0.1:40901]
    #[arg(long, value_name = "ADDR", value_parser = socket_addr)]
    pub admin: Option<SocketAddr>,
    /// Ask this registry when a request names none [default: Docker Hub]
    #[arg(long, value_name = "URL")]
    pub registry: Option<String>,
    /// Allow this registry although it is private or the front is open to others; may be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allow_registry: Vec<String>,
    /// Bring in the rest of a blob of which a range was asked: true or false [default: false]
    #[arg(long, value_name = "BOOL")]
    pub prefetch: Option<String>,
    /// Be a node of the cluster that this file has the secrets of; see darter cluster init
    #[arg(long, value_name = "FILE")]
    pub cluster_secret: Option<String>,
    /// Be a seed there: a node that goes to the registry for others too
    #[arg(long)]
    pub seed: bool,
    /// Listen here for other nodes, by UDP and TCP [default: 127.0.0.1:65000]
    #[arg(long, value_name = "ADDR", value_parser = socket_addr)]
    pub peer_listen: Option<SocketAddr>,
    /// Have other nodes connect to this address [default: where it listens]
    #[arg(long, value_name = "IP[:PORT]")]
    pub peer_advertise: Option<String>,
    /// Find the cluster's seeds here: HOST:PORT, dns://NAME:PORT or dns+srv://NAME; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Vec<String>,
    /// Be near to the nodes of this zone
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// Serve with this many threads [default: the CPUs that the daemon may use, at most 4]
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// Do I/O by auto, ring or pool [default: auto]
    #[arg(long, value_name = "IO")]
    pub io: Option<String>,
    /// Confine the process: auto, off or required [default: auto, as far as the kernel can]
    #[arg(long, value_name = "MODE")]
    pub sandbox: Option<String>,
    /// Become this user once the ports are open [default: whoever starts the daemon]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Write logs as text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl ServeArgs {
    /// Where the daemon's configuration comes from.
    #[must_use]
    pub fn inputs(&self) -> Inputs {
        Inputs { file: self.config.clone(), overrides: self.overrides() }
    }

    /// What the flags say, as the upper layer of the configuration.
    #[must_use]
    pub fn overrides(&self) -> Vec<Override> {
        let front = self.front.as_ref();
        let admin = self.admin.as_ref();
        let allowed = self.allow_registry.iter();
        let join = self.join.iter();
        [
            Override::given("dataDir", "--data-dir", self.data_dir.as_ref()),
            Override::given("storage.capacity", "--capacity", self.capacity.as_ref()),
            Override::given("proxy.tcpListen.listen", "--front", front.map(SocketAddr::ip)),
            Override::given("proxy.tcpListen.port", "--front", front.map(SocketAddr::port)),
            Override::given("health.tcpListen.listen", "--admin", admin.map(SocketAddr::ip)),
            Override::given("health.tcpListen.port", "--admin", admin.map(SocketAddr::port)),
            Override::given("proxy.registryMirror.url", "--registry", self.registry.as_ref()),
            Override::given("download.prefetch", "--prefetch", self.prefetch.as_ref()),
            Override::given("cluster.role", "--seed", self.seed.then_some("seed")),
            Override::given("cluster.listen", "--peer-listen", self.peer_listen),
            Override::given("cluster.advertise", "--peer-advertise", self.peer_advertise.as_ref()),
            Override::given("cluster.zone", "--zone", self.zone.as_ref()),
            Override::given("cluster.secretFile", "--cluster-secret", self.cluster_secret.as_ref()),
            Override::given("shards", "--shards", self.shards.as_ref()),
            Override::given("storage.io", "--io", self.io.as_ref()),
            Override::given("sandbox.mode", "--sandbox", self.sandbox.as_ref()),
            Override::given("sandbox.user", "--user", self.user.as_ref()),
            Override::given("log.format", "--log-format", self.log_format.as_ref()),
        ]
        .into_iter()
        .chain(
            allowed.map(|host| Override::given("proxy.allowedRegistries[]", "--allow-registry", Some(host))),
        )
        .chain(join.map(|place| Override::given("cluster.join[]", "--join", Some(place))))
        .flatten()
        .collect()
    }
}

/// `IP:PORT`.
pub(crate) fn socket_addr(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected IP:PORT, such as 127.0.0.1:65001 or 0.0.0.0:65001")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::{self, RawConfig};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_reaches_its_key() {
        let args = "darter serve --data-dir /d --capacity 1GiB --front 127.0.0.1:1 --admin [::1]:2 \
                    --registry http://r:5000 --allow-registry a --allow-registry b:1 --prefetch true --shards 3 \
                    --io pool --log-format json --cluster-secret /s --seed --peer-listen 0.0.0.0:4 \
                    --peer-advertise 10.0.0.7 --join a:5 --join dns+srv://b --zone z --sandbox required --user darter";
        let cli = Cli::try_parse_from(args.split_whitespace()).expect("right flags");
        let Command::Serve(serve) = cli.command else { panic!("serve was asked for") };
        // The files that are named are not there.
        let surroundings = config::Surroundings::default();
        let resolved = config::resolve(&RawConfig::default(), &serve.overrides(), &surroundings);
        let resolved = resolved.expect("right values");
        let by_flag: Vec<_> = resolved
            .effective
            .iter()
            .filter(|row| matches!(row.source, config::Source::Flag(_)))
            .map(|row| format!("{} {} {}", row.source, row.key, row.value))
            .collect();
        assert_eq!(
            by_flag,
            [
                "--data-dir dataDir /d",
                "--capacity storage.capacity 1GiB",
                "--io storage.io pool",
                "--front proxy.tcpListen.listen 127.0.0.1",
                "--front proxy.tcpListen.port 1",
                "--admin health.tcpListen.listen ::1",
                "--admin health.tcpListen.port 2",
                "--registry proxy.registryMirror.url http://r:5000",
                "--allow-registry proxy.allowedRegistries[0] a",
                "--allow-registry proxy.allowedRegistries[1] b:1",
                "--prefetch download.prefetch true",
                "--seed cluster.role seed",
                "--peer-listen cluster.listen 0.0.0.0:4",
                "--peer-advertise cluster.advertise 10.0.0.7",
                "--join cluster.join[0] a:5",
                "--join cluster.join[1] dns+srv://b",
                "--zone cluster.zone z",
                "--cluster-secret cluster.secretFile /s",
                "--sandbox sandbox.mode required",
                "--user sandbox.user darter",
                "--shards shards 3",
                "--log-format log.format json",
            ]
        );
    }
}
