//! What the daemon counts, and its text at `/metrics` (OpenMetrics).
//!
//! One file, one noun. What clients are answered is counted by each shard for itself ([`answers`]), without a lock and
//! without a look-up; all else is rarer than a hit. What the store and the cluster count already is taken over when the
//! text is made. `docs/metrics.md` has each metric, and a test holds it against a running daemon, both ways.
//!
//! No label names a node, a client, a content or an image, of which there may be any number; registries are named up
//! to a limit ([`registries`]).

mod answers;
mod cluster;
mod fates;
mod fetches;
mod front;
mod givers;
mod latencies;
mod limits;
mod moved;
mod process;
mod registries;
mod status;
mod store;
mod traces;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use darter_engine::Store;
use darter_transport::cluster::Shared;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use self::answers::AllAnswers;
use self::process::Process;

pub(crate) use self::answers::Shed;
pub(crate) use self::answers::{Answers, Source};
pub(crate) use self::fates::{Fate, Fates};
pub(crate) use self::fetches::Coalesced;
pub(crate) use self::givers::{Giver, Givers};
pub(crate) use self::limits::Limit;
pub(crate) use self::moved::Moved;
pub(crate) use self::registries::Registries;
pub(crate) use self::traces::{SpanFate, Traces};

/// All counters of a daemon; shared by its shards.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    answers: AllAnswers,
    pub(crate) front: front::Front,
    pub(crate) fetches: fetches::Fetches,
    pub(crate) registries: Arc<Registries>,
    pub(crate) limits: limits::Limits,
    pub(crate) traces: Arc<Traces>,
    store: store::Store,
    cluster: cluster::Cluster,
    process: Process,
}

impl Metrics {
    /// All zero. `io` is the backend that the store uses.
    pub(crate) fn new(io: &str) -> Arc<Self> {
        let mut registry = Registry::with_prefix("darter");
        let process = Process::register(&mut registry, io);
        let answers = AllAnswers::default();
        answers.register(&mut registry);
        let front = front::Front::register(&mut registry);
        let fetches = fetches::Fetches::default();
        fetches.register(&mut registry);
        let registries = Arc::new(Registries::default());
        registries.register(&mut registry);
        let limits = limits::Limits::default();
        limits.register(&mut registry);
        let traces = Arc::new(Traces::default());
        traces.register(&mut registry);
        let store = store::Store::default();
        store.register(&mut registry);
        let cluster = cluster::Cluster::default();
        cluster.register(&mut registry);
        Arc::new(Self {
            registry,
            answers,
            front,
            fetches,
            registries,
            limits,
            traces,
            store,
            cluster,
            process,
        })
    }

    /// Where one shard more counts what it answers.
    pub(crate) fn of_a_shard(&self) -> Arc<Answers> {
        self.answers.of_a_shard()
    }

    /// Who brought the blocks that came last.
    pub(crate) fn givers(&self) -> &Givers {
        self.answers.givers()
    }

    /// What became of requests since the start, for people to look at.
    pub(crate) fn fates(&self) -> Fates {
        self.answers.fates()
    }

    /// What has moved since the start, for people to look at.
    pub(crate) fn moved(&self) -> Moved {
        Moved::of(self)
    }

    /// The OpenMetrics text, with the numbers of this moment of the store, and of the cluster that the node is in.
    pub(crate) fn text(&self, store: &Store, cluster: Option<&Shared>) -> String {
        self.process.take_over();
        self.store.take_over(&store.stats(), &store.scrub_status());
        if let Some(cluster) = cluster {
            self.cluster.take_over(cluster);
            self.limits.take_over(cluster.books().limits().hits());
        }
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Formatting into a string does not fail; an empty answer would look like a healthy one.
            let _ = writeln!(text, "# the metrics could not be written");
        }
        text
    }
}

fn set(gauge: &Gauge<i64, AtomicI64>, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Others count; a scrape brings the counter up to them.
fn raise(counter: &Counter<u64, AtomicU64>, value: u64) {
    counter.inner().fetch_max(value, Ordering::Relaxed);
}
