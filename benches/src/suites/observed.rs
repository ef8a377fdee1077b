//! What it costs hits that somebody looks: metrics that are scraped, spans that are exported.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use darter::demo::registry::Blob;

use super::{cold, subject};
use crate::collector;
use crate::darter_side::{Darter, DarterOptions};
use crate::goal::{Bound, Goal};
use crate::load::{self, Pattern};
use crate::measure::Measure;
use crate::nginx_side::Nginx;
use crate::report::Table;
use crate::rounds::Round;
use crate::server::pause;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::workload::{Subject, Workload};

/// nydusd's mirror client keeps a handful.
const CONNECTIONS: usize = 8;
/// Fifteen times as often as Prometheus does by default.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
const UNOBSERVED: &str = "metrics: {enable: false}\n";

/// One table.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    let blob = Blob::synthetic(SEED, setting.blob_bytes);
    let origin = setting.cores.on_generator(|| Nginx::of_files(std::slice::from_ref(&blob)))??;
    let registry = format!("http://{}", origin.server().address());
    let hit = subject(&registry, blob.digest(), blob.len());
    let observed = observed(collector::start()?);
    let start = |configuration: &str| -> anyhow::Result<Darter> {
        let options = DarterOptions::one_shard(&setting.binary, registry.clone(), 2 * blob.len());
        let options = DarterOptions { configuration: configuration.into(), ..options };
        let darter = setting.cores.on_server(|| Darter::start(&options))??;
        cold::pull(darter.server(), std::slice::from_ref(&hit))?;
        Ok(darter)
    };
    let sides = [(Side::Unobserved, start(UNOBSERVED)?), (Side::Observed, start(&observed)?)];
    let mut table = Table::new(
        "Hits that are observed",
        format!(
            "One shard on one core, the load on the other, {CONNECTIONS} connections, a cached blob of {} MiB. Unobserved: no \
             /metrics, no spans. Observed: /metrics is scraped each second, and of one request in a hundred the spans go to a \
             collector. What is counted is counted on both sides. {} rounds of {} s each in turn.",
            setting.blob_bytes >> 20,
            setting.rounds,
            setting.turn.as_secs_f64()
        ),
        &[Measure::AnswersPerS, Measure::LatencyP50S, Measure::LatencyP99S, Measure::CpuSPerGb],
    );
    for workload in [Workload::SMALL, Workload::MIDDLE] {
        for (side, darter) in &sides {
            turn(setting, (*side, darter), (&hit, workload), 0)?;
        }
        for round in 0..setting.rounds {
            for (side, darter) in Setting::in_turn(round, &[&sides[0], &sides[1]]) {
                let measured = turn(setting, (*side, darter), (&hit, workload), u64::from(round) + 1)?;
                table.add(workload, *side, measured);
            }
        }
        let sides = (Side::Observed, &[Side::Unobserved][..]);
        table.want(Goal::ratio(workload.to_string(), sides, Measure::AnswersPerS, Bound::AtLeast(0.98)));
    }
    Ok(vec![table])
}

fn observed(collector: SocketAddr) -> String {
    format!("tracing: {{endpoint: \"http://{collector}\", sampleRatio: 0.01}}\n")
}

/// The one of seed 0 warms, and is a quarter as long.
fn turn(
    setting: &Setting,
    (side, darter): (Side, &Darter),
    (hit, workload): (&Subject, Workload),
    seed: u64,
) -> anyhow::Result<Round> {
    let duration = if seed == 0 { setting.turn / 4 } else { setting.turn };
    let pattern = Pattern { workload, connections: CONNECTIONS, duration, seed };
    let done = AtomicBool::new(false);
    let before = darter.server().cpu()?;
    let burst = thread::scope(|scope| {
        let scraping = scope.spawn(|| -> anyhow::Result<()> {
            while side == Side::Observed && !done.load(Ordering::Acquire) {
                darter.metrics()?;
                pause(SCRAPE_EVERY.min(duration / 2));
            }
            Ok(())
        });
        let burst = setting
            .cores
            .on_generator(|| load::burst(darter.server().address(), std::slice::from_ref(hit), pattern));
        done.store(true, Ordering::Release);
        scraping.join().expect("who scrapes does not panic")?;
        burst?
    })?;
    Ok(burst.round(darter.server().cpu()? - before))
}
