//! A blob from one node to another, from slabs to slabs, beside what quinn alone does: what the protocol, its checks and the store
//! cost.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use darter_tests::need::need;
use darter_tests::net::{Cluster, Host, NETWORK, Node, Plan};
use darter_tests::{Request, built};
use serde_json::Value;

use crate::bare_quinn;
use crate::connection::SILENCE_MAX;
use crate::goal::{Bound, Goal};
use crate::measure::Measure;
use crate::report::Table;
use crate::rounds::Round;
use crate::server::{cpu_of, pause};
use crate::setting::{SEED, Setting};
use crate::side::Side;

const BLOB_BYTES: u64 = 512 << 20;
const QUICK_BLOB_BYTES: u64 = 32 << 20;
const MTUS: [u32; 2] = [1500, 9000];
/// Where bare quinn listens, beside the seed.
const BARE_PORT: u16 = 7100;
const IN_MEMORY: &str = "/dev/shm";
/// Turns of each side in which pages of slabs may still be new.
const WARMING_ROUNDS: u32 = 2;
/// How often it is looked whether a blob has come.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const SIDES: [Side; 3] = [Side::OverQuic, Side::BareQuinn, Side::OverTcp];
/// Of the peer that is the third node.
const BY_TCP: &str = "cluster: {transport: tcp}\n";

/// One table.
pub(crate) fn run(setting: &Setting) -> anyhow::Result<Vec<Table>> {
    if !need("node-to-node", &NETWORK) {
        return Ok(Vec::new());
    }
    ensure!(
        setting.binary == built("darter").canonicalize()?,
        "node-to-node measures the darter beside this program"
    );
    let bytes = if setting.quick { QUICK_BLOB_BYTES } else { BLOB_BYTES };
    let method = format!(
        "A seed and two peers in network namespaces, one shard each, links without a limit; the seed with all that it does on one \
         core, who receives on the other. The seed has a blob of {} MiB; a client asks a peer for one byte, and prefetch \
         brings the rest: read from slabs, encrypted, checked (BLAKE3), written to slabs, hashed (SHA-256). It has ended when \
         the peer holds all, looked at every {} ms; the CPU time is that until the SHA-256 is known. Beside it quinn alone: one \
         stream from memory to a process that hashes each 64 KiB (BLAKE3) and writes them to a file. Slabs and file are in memory \
         (tmpfs). {} rounds after {WARMING_ROUNDS} that make pages warm.",
        bytes >> 20,
        LOOK_EVERY.as_millis(),
        setting.rounds
    );
    let measures =
        [Measure::BytesPerS, Measure::ElapsedS, Measure::SenderCpuSPerGb, Measure::ReceiverCpuSPerGb];
    let mut table = Table::new("From node to node", method, &measures);
    for mtu in MTUS {
        let case = format!("MTU {mtu}");
        eprintln!("  {case}");
        let ends = Ends::start(setting, mtu, bytes)?;
        for round in 0..WARMING_ROUNDS + setting.rounds {
            for side in Setting::in_turn(round, &SIDES) {
                let moved = ends.turn(side, round)?;
                if round >= WARMING_ROUNDS {
                    table.add(&*case, side, moved.round(bytes));
                }
            }
        }
    }
    let [usual, jumbo] = MTUS.map(|mtu| format!("MTU {mtu}"));
    let sides = (Side::OverQuic, &[Side::BareQuinn][..]);
    table.want(Goal::ratio(&*usual, sides, Measure::BytesPerS, Bound::AtLeast(0.9)));
    table.want(Goal::value(&*usual, Side::OverQuic, Measure::SenderCpuSPerGb, Bound::AtMost(1.6)));
    table.want(Goal::value(jumbo, Side::OverQuic, Measure::BytesPerS, Bound::AtLeast(0.9e9)));
    Ok(vec![table])
}

/// One turn.
struct Moved {
    elapsed: Duration,
    sender_cpu: Duration,
    receiver_cpu: Duration,
}

impl Moved {
    fn round(&self, bytes: u64) -> Round {
        let per_gb = |cpu: Duration| cpu.as_secs_f64() / bytes as f64 * 1e9;
        Round::default()
            .with(Measure::BytesPerS, bytes as f64 / self.elapsed.as_secs_f64())
            .with(Measure::ElapsedS, self.elapsed.as_secs_f64())
            .with(Measure::SenderCpuSPerGb, per_gb(self.sender_cpu))
            .with(Measure::ReceiverCpuSPerGb, per_gb(self.receiver_cpu))
    }
}

/// All who send and receive in one network.
struct Ends {
    bytes: u64,
    // Before the network that they are in.
    giver: Bare,
    taker: Taker,
    cluster: Cluster,
    _home: tempfile::TempDir,
}

impl Ends {
    fn start(setting: &Setting, mtu: u32, bytes: u64) -> anyhow::Result<Self> {
        let home = tempfile::TempDir::with_prefix_in("darter-bench-", IN_MEMORY)?;
        // Prefetch takes no more than three quarters of a store.
        let capacity = format!("{}MiB", (bytes >> 20) * 3 / 2);
        let plan = Plan::new(1, 2).mtu(mtu).stores_in(home.path()).capacity(&capacity);
        let cluster = plan.prefetch(true).configured(2, BY_TCP).start();
        cluster.wait_until_joined();
        let [seed, peers @ ..] = cluster.nodes() else { anyhow::bail!("there is a seed") };
        setting.cores.keep_on_server(seed.daemon().pid())?;
        for peer in peers {
            setting.cores.keep_on_generator(peer.daemon().pid())?;
        }
        let made = rcgen::generate_simple_self_signed([bare_quinn::NAME.to_owned()])?;
        let file = |name: &str| home.path().join(name).display().to_string();
        fs::write(file("certificate"), made.cert.der())?;
        fs::write(file("key"), made.signing_key.serialize_der())?;
        let listen: SocketAddr = seed.host().at(BARE_PORT);
        let (listen, length) = (listen.to_string(), bytes.to_string());
        let certificate = ["--certificate", &file("certificate")];
        let give = ["give", "--listen", &listen, "--bytes", &length, "--key", &file("key")];
        let giver = Bare::start(seed.host(), &[&give[..], &certificate[..]].concat())?;
        let take = ["take", "--from", &listen, "--into", &file("taken")];
        let taker = Bare::start(peers[0].host(), &[&take[..], &certificate[..]].concat())?;
        setting.cores.keep_on_server(giver.child.id())?;
        setting.cores.keep_on_generator(taker.child.id())?;
        Ok(Self { bytes, giver, taker: Taker::new(taker)?, cluster, _home: home })
    }

    fn turn(&self, side: Side, round: u32) -> anyhow::Result<Moved> {
        match (side, self.cluster.nodes()) {
            (Side::BareQuinn, _) => self.taker.turn(&self.giver),
            (Side::OverQuic, [seed, peer, _]) => self.between(seed, peer, 2 * u64::from(round)),
            (_, [seed, _, peer]) => self.between(seed, peer, 2 * u64::from(round) + 1),
            _ => anyhow::bail!("there are a seed and two peers"),
        }
    }

    /// A blob that only the seed has.
    fn between(&self, seed: &Node, peer: &Node, number: u64) -> anyhow::Result<Moved> {
        let origin = self.cluster.origin();
        let blob = origin.blob(SEED + number, self.bytes);
        seed.pull(&blob);
        wait_until_proved(seed, &blob.digest())?;
        origin.forget();
        let (sender, receiver) = (seed.daemon().pid(), peer.daemon().pid());
        let cpu = (cpu_of(sender)?, cpu_of(receiver)?);
        let started = Instant::now();
        blob.read(&mut peer.client(), 0..1)?;
        let at_peer = |content: &Value| content["held_bytes"] == self.bytes;
        wait_until_content(peer, &blob.digest(), at_peer)?;
        let elapsed = started.elapsed();
        wait_until_proved(peer, &blob.digest())?;
        let moved = Moved {
            elapsed,
            sender_cpu: cpu_of(sender)?.saturating_sub(cpu.0),
            receiver_cpu: cpu_of(receiver)?.saturating_sub(cpu.1),
        };
        ensure!(origin.blob_bytes() == 0, "the registry was asked for {} bytes", origin.blob_bytes());
        for node in [seed, peer] {
            let removal = Request::delete(format!("/api/v1/contents/{}", blob.digest()));
            node.daemon().admin_client().fetch(&removal)?;
        }
        Ok(moved)
    }
}

fn wait_until_proved(node: &Node, digest: &str) -> anyhow::Result<()> {
    wait_until_content(node, digest, |content| content["verification"] == "passed")
}

/// Waits until that is true of what a node says of a content.
fn wait_until_content(node: &Node, digest: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    let mut admin = node.daemon().admin_client();
    let ask = Request::get(format!("/api/v1/contents/{digest}"));
    let started = Instant::now();
    loop {
        let content: Value = serde_json::from_slice(&admin.fetch(&ask)?.body)?;
        if is_so(&content) {
            return Ok(());
        }
        ensure!(started.elapsed() < SILENCE_MAX, "{digest} does not come: {content}");
        pause(LOOK_EVERY);
    }
}

/// One end of quinn's, as a process of its own.
#[derive(Debug)]
struct Bare {
    child: Child,
}

impl Bare {
    fn start(host: &Host, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare-quinn").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = host.namespace().enter(|| command.spawn())?;
        Ok(Self { child })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended by itself, with its complaint on our standard error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end that takes, and tells how long that took.
#[derive(Debug)]
struct Taker {
    process: Bare,
    orders: ChildStdin,
    told: std::cell::RefCell<BufReader<ChildStdout>>,
}

impl Taker {
    fn new(mut process: Bare) -> anyhow::Result<Self> {
        let orders = process.child.stdin.take().context("its input is piped")?;
        let told = process.child.stdout.take().context("its output is piped")?;
        Ok(Self { process, orders, told: BufReader::new(told).into() })
    }

    fn turn(&self, giver: &Bare) -> anyhow::Result<Moved> {
        let (sender, receiver) = (giver.child.id(), self.process.child.id());
        let cpu = (cpu_of(sender)?, cpu_of(receiver)?);
        (&self.orders).write_all(b"\n")?;
        let mut told = String::new();
        self.told.borrow_mut().read_line(&mut told)?;
        let elapsed_s: f64 = told.trim().parse().context("bare quinn has not ended its turn")?;
        Ok(Moved {
            elapsed: Duration::try_from_secs_f64(elapsed_s)?,
            sender_cpu: cpu_of(sender)?.saturating_sub(cpu.0),
            receiver_cpu: cpu_of(receiver)?.saturating_sub(cpu.1),
        })
    }
}
