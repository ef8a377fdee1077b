//! A seed of which many peers take a blob at once: what that costs it in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use darter_tests::{Daemon, Origin, Secrets, built, wait_until};
use serde_json::Value;

use crate::goal::{Bound, Goal};
use crate::measure::Measure;
use crate::report::Table;
use crate::server::{Memory, pause};
use crate::setting::{SEED, Setting};
use crate::side::Side;

const PEERS: usize = 64;
/// Of a quick run.
const FEW_PEERS: usize = 8;
const BLOB_BYTES: u64 = 48 << 20;
/// Room for a blob, and no more.
const CAPACITY: &str = "64MiB";
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
const JOINED_WITHIN: Duration = Duration::from_secs(120);

const CONNECTED: &str = "connected, idle";
const SERVING: &str = "all peers pull a blob at once";

/// One table.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    ensure!(
        setting.binary == built("darter").canonicalize()?,
        "many-peers measures the darter beside this program"
    );
    let peers = if setting.quick { FEW_PEERS } else { PEERS };
    let blob_bytes = if setting.quick { BLOB_BYTES / 8 } else { BLOB_BYTES };
    let rounds = setting.long_rounds();
    let method = format!(
        "A seed with two shards and {peers} peers with one, each a process, on loopback, all on this machine's cores. In each of \
         {rounds} rounds all peers begin at once to pull a blob of {} MiB that nobody has. Memory of the seed: resident and \
         anonymous, with page tables, the highest of samples every 20 ms; mapped pages of slabs are page cache and stand apart.",
        blob_bytes >> 20
    );
    let measures = [
        Measure::OwnAndPageTablesBytes,
        Measure::OwnBytes,
        Measure::MappedBytes,
        Measure::ElapsedS,
        Measure::OriginBytes,
    ];
    let mut table = Table::new("A seed with many peers", method, &measures);
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let seed = secrets.seed().shards(2).origin(&origin).prefetch(false).capacity("512MiB").start();
    let address = address_of(&seed)?;
    let start = |_| secrets.peer(&address).shards(1).origin(&origin).capacity(CAPACITY).start();
    let nodes: Vec<Daemon> = (0..peers).map(start).collect();
    wait_until_joined(&seed, &nodes);
    for round in 0..rounds {
        table.add(CONNECTED, Side::Darter, memory(&seed).round());
        let blob = origin.blob(SEED + u64::from(round), blob_bytes);
        origin.forget();
        let (done, started) = (AtomicBool::new(false), Instant::now());
        let (highest, elapsed) = thread::scope(|scope| -> anyhow::Result<_> {
            let sampling = scope.spawn(|| {
                let mut highest = Memory::default();
                while !done.load(Ordering::Acquire) {
                    let now = memory(&seed);
                    if now.counted() > highest.counted() {
                        highest = now;
                    }
                    pause(SAMPLE_EVERY);
                }
                highest
            });
            let pulls: Vec<_> = (nodes.iter())
                .map(|node| scope.spawn(|| blob.read(&mut node.client(), blob.whole())))
                .collect();
            let pulled: Vec<_> =
                pulls.into_iter().map(|pull| pull.join().expect("a reader does not panic")).collect();
            let elapsed = started.elapsed();
            done.store(true, Ordering::Release);
            let highest = sampling.join().expect("a sampler does not panic");
            pulled.into_iter().collect::<Result<Vec<_>, _>>().context("a peer pulls")?;
            Ok((highest, elapsed))
        })?;
        let round = highest.round().with(Measure::ElapsedS, elapsed.as_secs_f64());
        table.add(SERVING, Side::Darter, round.with(Measure::OriginBytes, origin.blob_bytes() as f64));
    }
    let most = Bound::AtMost(f64::from(256 << 20));
    table.want(Goal::value(SERVING, Side::Darter, Measure::OwnAndPageTablesBytes, most));
    Ok(vec![table])
}

fn memory(node: &Daemon) -> Memory {
    Memory {
        anonymous_bytes: node.memory_kib("RssAnon") << 10,
        file_bytes: (node.memory_kib("RssFile") + node.memory_kib("RssShmem")) << 10,
        page_tables_bytes: node.memory_kib("VmPTE") << 10,
    }
}

/// Where other nodes reach that one.
pub(crate) fn address_of(node: &Daemon) -> anyhow::Result<String> {
    let request = darter_tests::Request::get("/api/v1/peers");
    let answer = node.admin_client().fetch(&request)?;
    let told: Value = serde_json::from_slice(&answer.body)?;
    Ok(told["node"]["address"].as_str().context("no address")?.to_owned())
}

/// Waits until all of these are connected with that seed and know it: who does not goes to the registry by himself.
pub(crate) fn wait_until_joined(seed: &Daemon, nodes: &[Daemon]) {
    let peers = nodes.len();
    let connected = || seed.metrics().sum("darter_peers_connected") as usize;
    wait_until(
        JOINED_WITHIN,
        || connected() >= peers,
        || format!("{} of {peers} peers are connected", connected()),
    );
    for node in nodes {
        let has_joined = || node.metrics().sum("darter_cluster_joined") > 0.0;
        wait_until(JOINED_WITHIN, has_joined, || "a peer does not join".to_owned());
    }
}
