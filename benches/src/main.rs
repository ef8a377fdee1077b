//! `darter-benches compare`: Darter's front beside nginx, the same requests in the same run. The method and the
//! latest figures stand in docs/performance.md; the engine's own benches are in `benches/`.
#![forbid(unsafe_code)]

mod compare;
mod cores;
mod darter_side;
mod load;
mod machine;
mod nginx_side;
mod report;
mod server;
mod workload;

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
    /// The front of one shard on one core beside one nginx worker, cached content over loopback
    Compare(compare::CompareArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Compare(args) => compare::run(&args),
    }
}
