//! A block that another node holds, as a reader waits for it: the client's request, the question to the owner, the block,
//! its check, the answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use darter_tests::{BLOCK_BYTES, Origin, Secrets, built};

use crate::connection::{BODY_BUFFER_BYTES, Connection, SILENCE_MAX, connect};
use crate::goal::{Bound, Goal};
use crate::measure::Measure;
use crate::report::Table;
use crate::rounds::Round;
use crate::setting::{SEED, Setting};
use crate::side::Side;
use crate::suites::many_peers::{address_of, wait_until_joined};
use crate::workload::Subject;

/// Of each block so much is asked for.
const RANGE_BYTES: u64 = 4096;
const BLOCKS: u64 = 512;
/// Of a quick run.
const FEW_BLOCKS: u64 = 64;
const CASE: &str = "ranges of 4 KiB, one of each second block";

/// One table.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    ensure!(
        setting.binary == built("darter").canonicalize()?,
        "first-block measures the darter beside this program"
    );
    let blocks = if setting.quick { FEW_BLOCKS } else { BLOCKS };
    let method = format!(
        "A seed and a peer on loopback, one shard each, the seed on one core, the peer and its client on the other, no prefetch. In \
         each of {} rounds the seed has a blob of its own, whole; then a client of the peer asks for 4 KiB of each second \
         block, {blocks} of them in an order of chance, on one connection, one after the other; then for the same once more. The \
         first question of a blob, which tells the peer what it is, does not count.",
        setting.rounds
    );
    let mut table = Table::new(
        "The first block from another node",
        method,
        &[Measure::LatencyP50S, Measure::LatencyP99S],
    );
    let (origin, secrets) = (Origin::start(), Secrets::init());
    let seed = || secrets.seed().shards(1).origin(&origin).prefetch(false).capacity("2GiB").start();
    let seed = setting.cores.on_server(seed)?;
    let address = address_of(&seed)?;
    let peer = || secrets.peer(&address).shards(1).origin(&origin).capacity("2GiB").start();
    let peer = setting.cores.on_generator(peer)?;
    wait_until_joined(&seed, std::slice::from_ref(&peer));
    for round in 0..setting.rounds {
        let blob = origin.blob(SEED + u64::from(round), 2 * BLOCK_BYTES * (blocks + 1));
        blob.read(&mut seed.client(), blob.whole()).context("the seed pulls")?;
        origin.forget();
        let subject = Subject { path: blob.target().to_owned(), bytes: blob.len(), registry: origin.url() };
        let mut order: Vec<u64> = (1..=blocks).collect();
        fastrand::Rng::with_seed(SEED + u64::from(round)).shuffle(&mut order);
        let (cold, hot) = setting.cores.on_generator(|| -> anyhow::Result<_> {
            let mut reader = Reader::new(peer.front())?;
            reader.latency(&subject, 0)?;
            Ok((reader.latencies(&subject, &order)?, reader.latencies(&subject, &order)?))
        })??;
        ensure!(origin.blob_bytes() == 0, "the registry was asked for {} bytes", origin.blob_bytes());
        table.add(CASE, Side::OtherNode, round_of(cold));
        table.add(CASE, Side::OwnStore, round_of(hot));
    }
    table.want(Goal::value(CASE, Side::OtherNode, Measure::LatencyP50S, Bound::AtMost(1.5e-3)));
    Ok(vec![table])
}

fn round_of(mut latencies: Vec<Duration>) -> Round {
    latencies.sort_unstable();
    let at = |part: f64| {
        let number = (latencies.len() as f64 * part) as usize;
        latencies.get(number.min(latencies.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64)
    };
    Round::default().with(Measure::LatencyP50S, at(0.5)).with(Measure::LatencyP99S, at(0.99))
}

/// A client with one connection.
struct Reader {
    connection: Connection<std::net::TcpStream>,
    buffer: Vec<u8>,
}

impl Reader {
    fn new(front: SocketAddr) -> anyhow::Result<Self> {
        let stream = connect(front)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Self { connection: Connection::new(stream), buffer: vec![0; BODY_BUFFER_BYTES] })
    }

    fn latencies(&mut self, subject: &Subject, numbers: &[u64]) -> anyhow::Result<Vec<Duration>> {
        numbers.iter().map(|number| self.latency(subject, *number)).collect()
    }

    /// Of a range in every second block.
    fn latency(&mut self, subject: &Subject, number: u64) -> anyhow::Result<Duration> {
        self.connection.send(subject.range(2 * BLOCK_BYTES * number + 1000, RANGE_BYTES))?;
        let answer = self.connection.receive(&mut self.buffer)?;
        Ok(answer.context("the peer is silent")?.latency)
    }
}
