//! Cached content: one server on one core, the load on the other.

use std::fmt;

use anyhow::ensure;
use darter::demo::registry::{Blob, Registry, RegistryOptions};

use super::publish;
use crate::darter_side::{Darter, DarterOptions};
use crate::goal::{Bound, Goal};
use crate::load::{self, Pattern};
use crate::measure::Measure;
use crate::nginx_side::Nginx;
use crate::report::Table;
use crate::rounds::Round;
use crate::server::Server;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::workload::{Subject, Workload};

/// nydusd's mirror client keeps a handful.
const CONNECTIONS: usize = 8;
/// A boot reads on few.
const FEW_CONNECTIONS: [usize; 3] = [1, 2, 4];
/// Ranges of each length whose bytes are compared before the measurement.
const CHECKED_RANGES: usize = 32;
const STATIC: [Side; 2] = [Side::NginxSendfile, Side::NginxRead];

#[derive(Clone, Copy)]
struct Case {
    workload: Workload,
    connections: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.connections == 1 { "" } else { "s" };
        write!(out, "{}, {} connection{plural}", self.workload, self.connections)
    }
}

/// Two tables: load, and memory after it.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    let registry = Registry::start(RegistryOptions::default())?;
    let blob = Blob::synthetic(SEED, setting.blob_bytes);
    let subject = publish(&registry, &blob);
    let on_core = setting.cores;
    let options = DarterOptions::one_shard(&setting.binary, registry.url(), 2 * blob.len());
    let darter = on_core.on_server(|| Darter::start(&options))??;
    let blobs = std::slice::from_ref(&blob);
    let sendfile = on_core.on_server(|| Nginx::of_static(blobs, true))??;
    let read = on_core.on_server(|| Nginx::of_static(blobs, false))??;
    let cache = on_core.on_server(|| Nginx::of_cache(&registry.url(), 2 * blob.len()))??;
    let sides = [
        (Side::Darter, darter.server()),
        (Side::NginxSendfile, sendfile.server()),
        (Side::NginxRead, read.server()),
        (Side::NginxCache, cache.server()),
    ];
    for (side, server) in sides {
        eprintln!("  checking {side}");
        check(server, &subject, &blob)?;
    }
    registry.reset_counts();

    let mut table = Table::new(
        "Hits",
        format!(
            "One shard, or one nginx worker, on one core; the load on the other. A blob of {} MiB in the page cache, \
             every side checked byte by byte and warmed before; {} rounds of {} s for each side in turn.",
            setting.blob_bytes >> 20,
            setting.rounds,
            setting.turn.as_secs_f64()
        ),
        &[
            Measure::AnswersPerS,
            Measure::BytesPerS,
            Measure::LatencyP50S,
            Measure::LatencyP99S,
            Measure::CpuPart,
            Measure::CpuSPerGb,
        ],
    );
    let few = FEW_CONNECTIONS.map(|connections| Case { workload: Workload::SMALL, connections });
    let many = Workload::ALL.map(|workload| Case { workload, connections: CONNECTIONS });
    for case in many.into_iter().chain(few) {
        for (_, server) in sides {
            turn(setting, server, &subject, case, 0)?;
        }
        for round in 0..setting.rounds {
            eprintln!("  {case}, round {} of {}", round + 1, setting.rounds);
            for (side, server) in Setting::in_turn(round, &sides) {
                table.add(case, side, turn(setting, server, &subject, case, u64::from(round) + 1)?);
            }
        }
    }
    // A long run renews its proof of access with a HEAD.
    let asked = registry.counts().blob_get.requests;
    ensure!(
        asked == 0,
        "the blob was not all cached: its origin was asked {asked} times while it was measured"
    );
    goals(&mut table);

    let columns = [Measure::OwnBytes, Measure::PageTablesBytes, Measure::MappedBytes];
    let mut memory = Table::new("Memory after the hits", "Resident, with workers.".into(), &columns);
    for (side, server) in sides {
        memory.add("all of the above", side, server.memory()?.round());
    }
    Ok(vec![table, memory])
}

fn goals(table: &mut Table) {
    let case = |workload, connections| Case { workload, connections }.to_string();
    let over_static = (Side::Darter, &STATIC[..]);
    let over_cache = (Side::Darter, &[Side::NginxCache][..]);
    for (workload, least) in [(Workload::MIDDLE, 1.0), (Workload::LARGE, 1.1), (Workload::Whole, 2.0)] {
        let case = case(workload, CONNECTIONS);
        table.want(Goal::ratio(&*case, over_static, Measure::AnswersPerS, Bound::AtLeast(least)));
        if workload != Workload::Whole {
            table.want(Goal::ratio(&*case, over_static, Measure::CpuSPerGb, Bound::AtMost(1.0)));
        }
        table.want(Goal::ratio(&*case, over_cache, Measure::AnswersPerS, Bound::AtLeast(1.3)));
    }
    for connections in FEW_CONNECTIONS {
        let case = case(Workload::SMALL, connections);
        for measure in [Measure::LatencyP50S, Measure::LatencyP99S] {
            table.want(Goal::ratio(&*case, over_cache, measure, Bound::AtMost(1.0)));
        }
    }
}

/// The whole blob and some ranges of each length. Where there is a cache, the first of them is what fills it.
fn check(server: &Server, subject: &Subject, blob: &Blob) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let right = |start, buffer: &mut [u8]| blob.read_exact_at(buffer, start);
    load::check(server.address(), subject.whole(), right)?;
    for workload in Workload::ALL {
        let checks = if workload == Workload::Whole { 1 } else { CHECKED_RANGES };
        for _ in 0..checks {
            load::check(server.address(), subject.request(workload, &mut random), right)?;
        }
    }
    Ok(())
}

/// The one of seed 0 warms, and is a quarter as long.
fn turn(
    setting: &Setting,
    server: &Server,
    subject: &Subject,
    case: Case,
    seed: u64,
) -> anyhow::Result<Round> {
    let duration = if seed == 0 { setting.turn / 4 } else { setting.turn };
    let pattern = Pattern { workload: case.workload, connections: case.connections, duration, seed };
    let before = server.cpu()?;
    let subjects = std::slice::from_ref(subject);
    let burst = setting.cores.on_generator(|| load::burst(server.address(), subjects, pattern))??;
    Ok(burst.round(server.cpu()? - before))
}
