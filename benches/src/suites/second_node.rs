//! Cold boots of one image at two nodes of a cluster, one after the other: what the second one has of the first, and what
//! it has of being told how that one booted.

use std::time::Duration;

use anyhow::ensure;
use darter::demo::registry::{Blob, RegistryOptions};
use darter_tests::built;
use darter_tests::need::need;
use darter_tests::net::{Cluster, NETWORK, Node, Plan};
use darter_tests::wait_until;

use crate::goal::{Bound, Goal};
use crate::measure::Measure;
use crate::replay::replay;
use crate::report::Table;
use crate::rounds::Round;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::trace::{SMALL_READS, Trace};
use crate::workload::Subject;

/// Of each node, and of the registry's host.
const LINK_BITS_PER_S: u64 = 1_000_000_000;
/// How far away the registry is: before each answer…
const REGISTRY_ROUND_TRIP: Duration = Duration::from_millis(20);
/// …and of all bodies together: 100 Mbit/s.
const REGISTRY_BYTES_PER_S: u64 = 12_500_000;
/// A node tells how it booted ten seconds after its client's last read.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// One table. Each round has blobs of its own, so that they are cold for both nodes.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    if !need("second-node", &NETWORK) {
        return Ok(Vec::new());
    }
    ensure!(
        setting.binary == built("darter").canonicalize()?,
        "second-node measures the darter beside this program"
    );
    let mut traces = Trace::boots()?;
    if setting.quick {
        traces.retain(|trace| trace.name == SMALL_READS);
    }
    let rounds = setting.long_rounds();
    let method = format!(
        "A seed and two peers in network namespaces, one shard each, links of 1 Gbit/s without a delay of their own; a registry \
         that waits 20 ms before each answer and sends 100 Mbit/s. The reads of a boot without their pauses, no \
         prefetch, {rounds} rounds. In each, one blob is booted at one peer and at once at the other, which knows nothing of \
         that boot's order yet; and another blob at the one and, when it has told, at the other."
    );
    let measures = [Measure::ElapsedS, Measure::LatencyP50S, Measure::LatencyP99S, Measure::OriginBytes];
    let mut table = Table::new("Boots at the second node", method, &measures);
    let registry = RegistryOptions {
        latency: REGISTRY_ROUND_TRIP,
        bandwidth_bytes_per_s: Some(REGISTRY_BYTES_PER_S),
        ..RegistryOptions::default()
    };
    let cluster = Plan::new(1, 2).bits_per_s(LINK_BITS_PER_S).registry(registry).capacity("4GiB").start();
    cluster.wait_until_joined();
    for (number, trace) in traces.iter().enumerate() {
        eprintln!("  {}", trace.name);
        for round in 0..rounds {
            let seed = SEED + 1000 * number as u64 + 2 * u64::from(round);
            let mut add = |side, round| table.add(&*trace.name, side, round);
            let [first, second] = two_peers(&cluster)?;
            let subject = published(&cluster, seed, trace);
            add(Side::FirstNode, boot(&cluster, first, &subject, trace)?);
            add(Side::SecondNode, boot(&cluster, second, &subject, trace)?);
            // Both have told, or the next boot's word could be taken for one of these.
            let subject = published(&cluster, seed + 1, trace);
            boot(&cluster, first, &subject, trace)?;
            wait_until_told(first, 2 * (u64::from(round) + 1) + told_before(number, rounds));
            add(Side::ToldNode, boot(&cluster, second, &subject, trace)?);
        }
        let ratio = |sides, most| Goal::ratio(&*trace.name, sides, Measure::ElapsedS, Bound::AtMost(most));
        table.want(ratio((Side::SecondNode, &[Side::FirstNode][..]), 0.5));
        table.want(ratio((Side::ToldNode, &[Side::SecondNode][..]), 0.7));
    }
    Ok(vec![table])
}

/// How many boots the first node has told before a trace's turn.
fn told_before(number: usize, rounds: u32) -> u64 {
    2 * number as u64 * u64::from(rounds)
}

fn two_peers(cluster: &Cluster) -> anyhow::Result<[&Node; 2]> {
    let [first, second] = cluster.peers() else { anyhow::bail!("there are two peers") };
    Ok([first, second])
}

fn published(cluster: &Cluster, seed: u64, trace: &Trace) -> Subject {
    let blob = cluster.origin().add(Blob::synthetic(seed, trace.blob_bytes()));
    Subject { path: blob.target().to_owned(), bytes: blob.len(), registry: cluster.origin().url() }
}

fn boot(cluster: &Cluster, node: &Node, subject: &Subject, trace: &Trace) -> anyhow::Result<Round> {
    let front = node.daemon().front();
    cluster.origin().forget();
    let burst = node.host().namespace().enter(|| replay(front, subject, trace))?;
    Ok(Round::default()
        .with(Measure::ElapsedS, burst.elapsed.as_secs_f64())
        .with(Measure::LatencyP50S, burst.latency(0.5).as_secs_f64())
        .with(Measure::LatencyP99S, burst.latency(0.99).as_secs_f64())
        .with(Measure::OriginBytes, cluster.origin().blob_bytes() as f64))
}

fn wait_until_told(node: &Node, boots: u64) {
    let told = || node.daemon().metrics().sum("darter_boots_recorded_total") as u64;
    wait_until(TOLD_WITHIN, || told() >= boots, || format!("{} of {boots} boots were told", told()));
}
