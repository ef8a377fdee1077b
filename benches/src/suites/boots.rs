//! Recorded boots, hot and cold, with a registry that is near and quick: what the node itself costs.

use darter::demo::registry::{Blob, Registry, RegistryOptions};

use super::publish;
use crate::darter_side::{Darter, DarterOptions};
use crate::goal::{Bound, Goal};
use crate::load;
use crate::measure::Measure;
use crate::nginx_side::Nginx;
use crate::replay::replay;
use crate::report::Table;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::trace::Trace;

/// Replays of what is cached, in one round.
const HOT_REPLAYS: usize = 5;
/// Reads whose bytes are compared after the cold replay.
const CHECKED_READS: usize = 16;

/// One table. Each round has a blob of its own, so that it is cold for all.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    let mut traces = Trace::boots()?;
    if setting.quick {
        traces.truncate(2);
    }
    let rounds = setting.rounds;
    // It and the client are on the core where the servers are not.
    let registry = setting.cores.on_generator(|| Registry::start(RegistryOptions::default()))??;
    let blob_bytes: u64 = traces.iter().map(Trace::blob_bytes).sum();
    let cache_bytes = (u64::from(rounds) + 1) * blob_bytes;
    let options = DarterOptions::one_shard(&setting.binary, registry.url(), cache_bytes);
    let darter = setting.cores.on_server(|| Darter::start(&options))??;
    let cache = setting.cores.on_server(|| Nginx::of_cache(&registry.url(), cache_bytes))??;
    let sides = [(Side::Darter, darter.server()), (Side::NginxCache, cache.server())];

    let method = format!(
        "One shard, or one nginx worker, on one core; client and registry on the other. The reads of a boot without \
         their pauses, on as many connections as were recorded. Cold: {rounds} rounds, a blob of its own in each; hot: \
         {HOT_REPLAYS} replays in each."
    );
    let measures = [
        Measure::ElapsedS,
        Measure::LatencyP50S,
        Measure::LatencyP99S,
        Measure::OriginRequests,
        Measure::OriginBytes,
    ];
    let mut table = Table::new("Boots", method, &measures);
    // The first round is not measured: connections to the registry and proofs of access are warm after it.
    for (number, trace) in traces.iter().enumerate() {
        eprintln!("  {}", trace.name);
        for round in 0..=rounds {
            let blob = Blob::synthetic(SEED + 1000 * number as u64 + u64::from(round), trace.blob_bytes());
            let subject = publish(&registry, &blob);
            for (side, server) in Setting::in_turn(round, &sides) {
                registry.reset_counts();
                let replay = || setting.cores.on_generator(|| replay(server.address(), &subject, trace));
                let cold = replay()??;
                let origin = registry.counts().blob_get;
                if round == 0 {
                    check(server.address(), &subject, &blob, trace)?;
                    continue;
                }
                let round = cold.round(server.cpu()?).with(Measure::OriginRequests, origin.requests as f64);
                let round = round.with(Measure::OriginBytes, origin.body_bytes as f64);
                table.add(format!("{}, cold", trace.name), side, round);
                for _ in 0..HOT_REPLAYS {
                    table.add(format!("{}, hot", trace.name), side, replay()??.round(server.cpu()?));
                }
            }
        }
    }
    for trace in &traces {
        for state in ["cold", "hot"] {
            let sides = (Side::Darter, &[Side::NginxCache][..]);
            let case = format!("{}, {state}", trace.name);
            table.want(Goal::ratio(&*case, sides, Measure::ElapsedS, Bound::AtMost(1.0)));
        }
    }
    Ok(vec![table])
}

fn check(
    server: std::net::SocketAddr,
    subject: &crate::workload::Subject,
    blob: &Blob,
    trace: &Trace,
) -> anyhow::Result<()> {
    for read in trace.reads.iter().take(CHECKED_READS) {
        let request = subject.range(read.range.start, read.range.end - read.range.start);
        load::check(server, request, |start, buffer| blob.read_exact_at(buffer, start))?;
    }
    Ok(())
}
