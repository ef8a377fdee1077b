//! `darter-benches compare`: Darter beside other servers and beside none, the same requests in the same run. The method
//! and the latest figures stand in docs/performance.md; the engine's own benches are in `benches/`.
#![forbid(unsafe_code)]

mod bare_quinn;
mod collector;
mod compare;
mod connection;
mod cores;
mod darter_side;
mod full_cache;
mod goal;
mod link;
mod load;
mod machine;
mod measure;
mod nginx_side;
mod polls;
mod replay;
mod report;
mod rounds;
mod server;
mod setting;
mod side;
mod sparse_disk;
mod suites;
mod trace;
mod workload;
mod zero_origin;

use clap::{Parser, Subcommand};

/// Measures Darter beside other servers.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All figures, or those of some suites: tables of medians, spread and ratios, and what was wanted
    Compare(compare::CompareArgs),
    /// One end of what `compare node-to-node` puts beside Darter
    #[command(hide = true)]
    BareQuinn(bare_quinn::BareQuinnArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Compare(args) => compare::run(&args),
        Command::BareQuinn(args) => bare_quinn::run(&args),
    }
}
