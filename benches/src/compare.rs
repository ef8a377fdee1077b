//! The comparisons: suites in turn, and one report of them all.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::cores::Cores;
use crate::darter_side;
use crate::machine::Machine;
use crate::report::{Report, Table};
use crate::setting::Setting;
use crate::suites::{
    beside, boots, cold, eviction, first_block, hits, many_peers, node_to_node, observed, remote,
    second_node, start,
};

const QUICK_BLOB_MIB: u64 = 64;

/// How to compare.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// What to compare [default: all]
    #[arg(value_enum, value_name = "SUITE")]
    suites: Vec<Suite>,
    /// Everything briefly; shows that it works, and no more
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Measure this darter [default: the workspace's, which is built]
    #[arg(long, value_name = "FILE")]
    darter: Option<PathBuf>,
    /// Length of the blob of the hits in MiB; it stays in the page cache
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=4096))]
    blob: u64,
    /// How often each side has its turn, a third of it where a turn is long [default: 7]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long a turn of load lasts [default: 3]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
}

/// A comparison with its servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Suite {
    /// Cached ranges on one core: darter, nginx with a static file, nginx with a cache
    Hits,
    /// Recorded boots of nydusd, hot and cold, on loopback: darter and nginx with a cache
    Boots,
    /// The same boots, cold, with a registry 20 ms away: through darter and straight
    Remote,
    /// The same boots at two nodes of a cluster, one after the other, without and with a boot list; as root
    SecondNode,
    /// Single blocks that another node holds, as a reader at this one waits for them, on loopback
    FirstBlock,
    /// A blob from one node's slabs to another's, by QUIC and by TCP, beside bare quinn; as root
    NodeToNode,
    /// Memory of a seed that serves 64 peers at once
    ManyPeers,
    /// A cold pull of a large blob from a loopback origin
    Cold,
    /// Hits beside a cold pull, and the longest poll of a shard
    Beside,
    /// Hits with metrics that are scraped and spans that are exported, beside hits without
    Observed,
    /// A start with the records of a full cache of 100 GiB, memory, and an open status page; as root
    Start,
    /// Hit ratios of the eviction beside LRU and the best choice
    Eviction,
}

impl CompareArgs {
    fn setting(&self) -> anyhow::Result<Setting> {
        let (rounds, seconds) = if self.quick { (1, 0.15) } else { (7, 3.0) };
        Ok(Setting {
            binary: self.darter.clone().map_or_else(darter_side::built, Ok)?,
            cores: Cores::choose()?,
            rounds: self.rounds.unwrap_or(rounds),
            turn: Duration::try_from_secs_f64(self.seconds.unwrap_or(seconds)).context("--seconds")?,
            blob_bytes: if self.quick { self.blob.min(QUICK_BLOB_MIB) } else { self.blob } << 20,
            quick: self.quick,
        })
    }
}

impl Suite {
    fn run(self, setting: &Setting) -> anyhow::Result<Vec<Table>> {
        match self {
            Self::Hits => hits::run(setting),
            Self::Boots => boots::run(setting),
            Self::Remote => remote::run(setting),
            Self::SecondNode => second_node::run(setting),
            Self::FirstBlock => first_block::run(setting),
            Self::NodeToNode => node_to_node::run(setting),
            Self::ManyPeers => many_peers::run(setting),
            Self::Cold => cold::run(setting),
            Self::Beside => beside::run(setting),
            Self::Observed => observed::run(setting),
            Self::Start => start::run(setting),
            Self::Eviction => eviction::run(setting),
        }
    }
}

/// Runs the suites and prints their report.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    // Before anything is started: its load is that of others.
    let mut report = Report::new(Machine::here());
    let setting = args.setting()?;
    let suites = if args.suites.is_empty() { Suite::value_variants() } else { &args.suites };
    for suite in suites {
        let name = suite.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        eprintln!("{name}");
        report.add(suite.run(&setting).with_context(|| format!("the suite {name}"))?);
    }
    println!("{}", if args.json { report.json()? } else { report.text() });
    Ok(())
}
