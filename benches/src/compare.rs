//! The comparison: both servers up, every byte checked once, then bursts of load in turn.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use darter::demo::registry::{Blob, Registry, RegistryOptions};

use crate::cores::Cores;
use crate::darter_side::{self, Darter};
use crate::load;
use crate::machine::Machine;
use crate::nginx_side::Nginx;
use crate::report::{Method, Report, Round, Side};
use crate::server::Server;
use crate::workload::{self, Subject, Workload};

const REPOSITORY: &str = "bench/app";
const SEED: u64 = 1;
/// Ranges of each length whose bytes are compared before the measurement.
const CHECKED_RANGES: usize = 32;

/// How to compare.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Half a second and one round for each; shows that it works, and no more
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Measure this darter [default: the workspace's, which is built]
    #[arg(long, value_name = "FILE")]
    darter: Option<PathBuf>,
    /// Length of the blob in MiB; it stays in the page cache
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=4096))]
    blob: u64,
    /// How often each side has its turn [default: 7]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long a turn lasts [default: 3]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
}

impl CompareArgs {
    fn method(&self) -> anyhow::Result<Method> {
        let (rounds, seconds) = if self.quick { (1, 0.5) } else { (7, 3.0) };
        Ok(Method {
            rounds: self.rounds.unwrap_or(rounds),
            turn: Duration::try_from_secs_f64(self.seconds.unwrap_or(seconds)).context("--seconds")?,
            connections: load::CONNECTIONS,
            blob_bytes: self.blob << 20,
            seed: SEED,
        })
    }
}

/// Runs the comparison and prints its report.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let method = args.method()?;
    let machine = Machine::here();
    let binary = args.darter.clone().map_or_else(darter_side::built, Ok)?;
    let cores = Cores::choose()?;
    let registry = Registry::start(RegistryOptions::default())?;
    let blob = Blob::synthetic(SEED, method.blob_bytes);
    let digest = registry.add_blob(REPOSITORY, blob.clone());
    let subject = Subject {
        path: format!("/v2/{REPOSITORY}/blobs/{digest}"),
        bytes: blob.len(),
        registry: registry.url(),
    };
    let darter = Darter::start(&cores, &binary, &registry.url(), blob.len())?;
    let nginx = Nginx::start(&cores, &subject, &blob)?;
    let sides = [(Side::Darter, darter.server()), (Side::Nginx, nginx.server())];

    for (side, server) in sides {
        eprintln!("checking {side}");
        check(server, &subject, &blob)?;
    }
    registry.reset_counts();
    let mut report = Report::new(machine, method);
    for workload in workload::ALL {
        // Once unmeasured: files and sockets are warm, blocks are checked.
        for (_, server) in sides {
            turn(&cores, server, &subject, workload, method.turn / 4, 0)?;
        }
        for round in 0..method.rounds {
            eprintln!("{workload}, round {} of {}", round + 1, method.rounds);
            // The one that was first is second in the next round.
            let turns = if round % 2 == 0 { sides } else { [sides[1], sides[0]] };
            for (side, server) in turns {
                let measured = turn(&cores, server, &subject, workload, method.turn, u64::from(round) + 1)?;
                report.add(workload, side, measured);
            }
        }
    }
    for (side, server) in sides {
        report.set_memory(side, server.memory()?);
    }
    // A long run renews its proof of access with a HEAD.
    let asked = registry.counts().blob_get.requests;
    ensure!(
        asked == 0,
        "the blob was not all cached: its origin was asked {asked} times while Darter was measured"
    );
    println!("{}", if args.json { report.json()? } else { report.table() });
    Ok(())
}

/// The whole blob and some ranges of each length. For Darter the first of them is what fills the cache.
fn check(server: &Server, subject: &Subject, blob: &Blob) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let right = |start, buffer: &mut [u8]| blob.read_exact_at(buffer, start);
    load::check(server.address(), subject.request(Workload::Whole, &mut random), right)?;
    for workload in workload::ALL {
        let checks = if workload == Workload::Whole { 1 } else { CHECKED_RANGES };
        for _ in 0..checks {
            load::check(server.address(), subject.request(workload, &mut random), right)?;
        }
    }
    Ok(())
}

fn turn(
    cores: &Cores,
    server: &Server,
    subject: &Subject,
    workload: Workload,
    duration: Duration,
    seed: u64,
) -> anyhow::Result<Round> {
    let before = server.cpu()?;
    let burst = cores.on_generator(|| load::burst(server.address(), subject, workload, duration, seed))??;
    Ok(Round {
        answers_per_s: burst.answers as f64 / burst.elapsed.as_secs_f64(),
        bytes_per_s: burst.bytes as f64 / burst.elapsed.as_secs_f64(),
        latency_p50_s: burst.latency(0.5).as_secs_f64(),
        latency_p99_s: burst.latency(0.99).as_secs_f64(),
        cpu_part: (server.cpu()? - before).as_secs_f64() / burst.elapsed.as_secs_f64(),
    })
}
