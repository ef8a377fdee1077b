//! Cold boots with a registry that is away, without prefetch: through a node that knows nothing yet, and without it.

use std::time::Duration;

use darter::demo::registry::{Blob, Registry, RegistryOptions};

use super::publish;
use crate::darter_side::{Darter, DarterOptions};
use crate::goal::{Bound, Goal};
use crate::link::{Distance, Link, LinkEnd};
use crate::measure::Measure;
use crate::replay::replay;
use crate::report::Table;
use crate::rounds::Round;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::trace::{SMALL_READS, Trace};
use crate::workload::Subject;

/// 20 ms, 100 Mbit/s.
const DISTANCE: Distance = Distance { round_trip: Duration::from_millis(20), bytes_per_s: 12.5e6 };
/// Reads of the only trace in a quick run.
const QUICK_READS: usize = 40;

/// A registry behind a link; with redirects, its storage is behind another.
struct Remote {
    registry: Registry,
    link: Link,
    storage: Option<Link>,
}

impl Remote {
    fn start(redirects: bool) -> anyhow::Result<Self> {
        let storage = redirects.then(LinkEnd::bind).transpose()?;
        let storage_seen_at = storage.as_ref().map(LinkEnd::address).transpose()?;
        let options =
            RegistryOptions { redirect_blobs: redirects, storage_seen_at, ..RegistryOptions::default() };
        let registry = Registry::start(options)?;
        let link = LinkEnd::bind()?.lead_to(registry.host().parse()?, DISTANCE)?;
        let storage = match (storage, registry.storage_host()) {
            (Some(end), Some(host)) => Some(end.lead_to(host.parse()?, DISTANCE)?),
            _ => None,
        };
        Ok(Self { registry, link, storage })
    }

    /// As clients name it.
    fn url(&self) -> String {
        format!("http://{}", self.link.address())
    }
}

/// One table.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    let mut traces = Trace::boots()?;
    if setting.quick {
        traces.retain(|trace| trace.name == SMALL_READS);
        traces = traces.into_iter().map(|trace| trace.beginning(QUICK_READS)).collect();
    }
    let rounds = setting.long_rounds();
    let method = format!(
        "A relay holds every byte back by 10 ms in its direction and every new connection by 20 ms, and lets 100 Mbit/s \
         through towards the node; TCP's slow start is not in it. The reads of a boot without their pauses, no \
         prefetch, {rounds} rounds in turn, in each a blob and a daemon of its own. Where the registry redirects, the \
         client remembers where to, as nydusd 2.1 does; the storage is behind a relay of its own."
    );
    let measures = [Measure::ElapsedS, Measure::LatencyP50S, Measure::OriginRequests, Measure::OriginBytes];
    let mut table = Table::new("Cold boots from afar", method, &measures);
    for redirects in [false, true] {
        for (number, trace) in traces.iter().enumerate() {
            let case = if redirects { format!("{}, redirected", trace.name) } else { trace.name.clone() };
            eprintln!("  {case}");
            for round in 0..rounds {
                let remote = Remote::start(redirects)?;
                let seed = SEED + 1000 * number as u64 + u64::from(round);
                let blob = Blob::synthetic(seed, trace.blob_bytes());
                let subject = Subject { registry: remote.url(), ..publish(&remote.registry, &blob) };
                for side in Setting::in_turn(round, &[Side::Darter, Side::Registry]) {
                    table.add(&*case, side, boot(setting, &remote, side, &subject, trace)?);
                }
            }
            // Of whole boots: what a block brings beside what was asked for is wanted later.
            if !setting.quick {
                let most = if trace.name == SMALL_READS { 0.75 } else { 1.0 };
                let sides = (Side::Darter, &[Side::Registry][..]);
                table.want(Goal::ratio(&*case, sides, Measure::ElapsedS, Bound::AtMost(most)));
            }
        }
    }
    Ok(vec![table])
}

fn boot(
    setting: &Setting,
    remote: &Remote,
    side: Side,
    subject: &Subject,
    trace: &Trace,
) -> anyhow::Result<Round> {
    let darter = match side {
        Side::Darter => {
            let options = DarterOptions {
                allowed: remote.storage.iter().map(|link| link.address().to_string()).collect(),
                shards: None,
                ..DarterOptions::one_shard(&setting.binary, remote.url(), 2 * subject.bytes)
            };
            Some(Darter::start(&options)?)
        }
        _ => None,
    };
    let server = darter.as_ref().map_or(remote.link.address(), |darter| darter.server().address());
    remote.registry.reset_counts();
    let burst = replay(server, subject, trace)?;
    let origin = remote.registry.counts();
    let requests = origin.blob_get.requests + origin.redirect.requests;
    let round = Round::default()
        .with(Measure::ElapsedS, burst.elapsed.as_secs_f64())
        .with(Measure::LatencyP50S, burst.latency(0.5).as_secs_f64())
        .with(Measure::OriginRequests, requests as f64);
    Ok(round.with(Measure::OriginBytes, origin.blob_get.body_bytes as f64))
}
