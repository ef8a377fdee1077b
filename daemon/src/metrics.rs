//! What the daemon counts, and its text at `/metrics` (OpenMetrics).

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use darter_engine::Store;
use darter_engine::store::{ScrubStatus, StoreStats};
use darter_transport::cluster::Shared;
use darter_transport::seeds::Standing;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::config;
use crate::origin::{BlobAnswer, OriginError};

/// Where an answer's bytes came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// All of it was in the store.
    Cache,
    /// Some of it had to be fetched.
    Origin,
    /// Passed through, past the store.
    Pass,
    /// The daemon's own refusal or trouble.
    Own,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct BySource {
    source: Source,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Answered {
    source: Source,
    status: u16,
}

/// Who sent a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Sender {
    Owner,
    Parent,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByFrom {
    from: Sender,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Outcome {
    Bytes,
    Refused,
    Unusable,
    Unreachable,
    Forbidden,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByOutcome {
    outcome: Outcome,
}

impl EncodeLabelValue for Source {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Cache => "cache",
            Self::Origin => "origin",
            Self::Pass => "pass",
            Self::Own => "own",
        })
    }
}

impl EncodeLabelValue for Sender {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Owner => "owner",
            Self::Parent => "parent",
        })
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Bytes => "bytes",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
        })
    }
}

/// Some of what is counted; bytes are those of bodies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Moved {
    /// To clients, from the store.
    pub(crate) hit_bytes: u64,
    /// To clients, just come from the network.
    pub(crate) fetched_bytes: u64,
    /// To clients, past the store.
    pub(crate) passed_bytes: u64,
    /// From registries, of contents.
    pub(crate) origin_bytes: u64,
    /// Served, and not kept.
    pub(crate) unkept_bytes: u64,
    /// Open at the front now.
    pub(crate) connections: u64,
    /// Closed because too many were open.
    pub(crate) connections_shed: u64,
}

/// All counters of a daemon; shared by its shards.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    body_bytes: Family<BySource, Counter>,
    head_seconds: Family<BySource, Histogram>,
    origin_requests: Family<ByOutcome, Counter>,
    origin_bytes: Counter,
    unkept_bytes: Counter,
    shed: Counter,
    boots_recorded: Counter,
    boots_followed: Counter,
    boot_ahead_blocks: Counter,
    connections: Gauge,
    longest_poll_seconds: Histogram,
    store: StoreGauges,
    cluster: ClusterGauges,
}

/// What is counted of other nodes, taken over at each scrape; without a cluster all zero. No label names a node: there may be
/// thousands, and `darter peers` tells of each.
#[derive(Debug, Default)]
struct ClusterGauges {
    joined: Gauge,
    seeds: Gauge,
    nodes: Gauge,
    connections: Gauge,
    sent_bytes: Counter,
    received_bytes: Counter,
    pulled_bytes: Family<ByFrom, Counter>,
    late_bytes: Counter,
    wrong_blocks: Counter,
    left_to_origin_blocks: Counter,
}

/// The store's own numbers, taken over at each scrape.
#[derive(Debug, Default)]
struct StoreGauges {
    capacity: Gauge,
    used: Gauge,
    contents: Gauge,
    leases: Gauge,
    slabs_out_of_service: Gauge,
    buffers: Gauge,
    evicted: Counter,
    checks_passed: Counter,
    checks_failed: Counter,
    hot: Counter,
    cold: Counter,
    refused: Counter,
    written: Counter,
    scrubbed: Counter,
    scrubbed_bad: Counter,
    scrubbed_wrong: Counter,
    scrub_running: Gauge,
    scrub_ended: Gauge,
}

impl Metrics {
    /// All zero. `io` is the backend that the store uses.
    pub fn new(io: &str) -> Arc<Self> {
        let mut registry = Registry::with_prefix("darter");
        let info = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("io", io.to_owned())];
        registry.register("build", "Version of this daemon and the I/O that it uses", Info::new(info));
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests answered by the front, by where the bytes came from",
            requests.clone(),
        );
        let body_bytes = Family::default();
        registry.register_with_unit("body", "Body bytes of answers", Unit::Bytes, body_bytes.clone());
        let head_seconds = Family::<BySource, Histogram>::new_with_constructor(|| {
            Histogram::new([
                0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            ])
        });
        registry.register_with_unit(
            "answer_head",
            "From the end of a request's head to that of its answer",
            Unit::Seconds,
            head_seconds.clone(),
        );
        let origin_requests = Family::default();
        registry.register("origin_requests", "Blob requests to origin registries", origin_requests.clone());
        let origin_bytes = Counter::default();
        registry.register_with_unit(
            "origin",
            "Blob bytes from origin registries",
            Unit::Bytes,
            origin_bytes.clone(),
        );
        let unkept_bytes = Counter::default();
        registry.register_with_unit(
            "unkept",
            "Bytes that were served and found no place in the store",
            Unit::Bytes,
            unkept_bytes.clone(),
        );
        let (boots_recorded, boots_followed, boot_ahead_blocks) =
            (Counter::default(), Counter::default(), Counter::default());
        registry.register(
            "boots_recorded",
            "Lazy reads of a content whose order the cluster was told",
            boots_recorded.clone(),
        );
        registry.register(
            "boots_followed",
            "Lazy reads of a content of which the cluster knew an order",
            boots_followed.clone(),
        );
        registry.register(
            "boot_ahead_blocks",
            "Blocks of 64 KiB that other nodes sent ahead of such a read",
            boot_ahead_blocks.clone(),
        );
        let shed = Counter::default();
        registry.register("connections_shed", "Connections closed because too many were open", shed.clone());
        let connections = Gauge::default();
        registry.register("connections", "Connections open at the front", connections.clone());
        let longest_poll_seconds =
            Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1]);
        registry.register_with_unit(
            "shard_longest_poll",
            "Of each 100 ms in which a shard was at work: the longest time that one task kept it",
            Unit::Seconds,
            longest_poll_seconds.clone(),
        );
        let store = StoreGauges::default();
        let bytes = |name: &str, help: &str, gauge: &Gauge, registry: &mut Registry| {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        };
        bytes("cache_capacity", "Bytes that the store can hold", &store.capacity, &mut registry);
        bytes("cache_used", "Bytes of slots in use", &store.used, &mut registry);
        bytes("buffers", "Bytes of block buffers in use", &store.buffers, &mut registry);
        registry.register("cache_contents", "Contents that the store knows", store.contents.clone());
        registry.register("cache_leases", "Leases on slots alive now", store.leases.clone());
        registry.register(
            "cache_slabs_out_of_service",
            "Slabs that take no new pieces until the next start: a sync failed or the file was cut short",
            store.slabs_out_of_service.clone(),
        );
        for (name, help, counter) in [
            ("cache_evicted_pieces", "Pieces of 256 KiB evicted", &store.evicted),
            ("cache_checks", "Blocks whose crc32 was computed before they were served", &store.checks_passed),
            ("cache_checks_failed", "Blocks that failed their crc32 and were dropped", &store.checks_failed),
            ("cache_hot_reads", "Runs of blocks served from the mapping", &store.hot),
            ("cache_cold_reads", "Runs of blocks read from disk", &store.cold),
            ("cache_refused", "Fetches that found no room in the store", &store.refused),
            ("scrub_blocks", "Blocks that the scrub or a verification read from the disk", &store.scrubbed),
            ("scrub_bad_blocks", "Those of them that were bad and were dropped", &store.scrubbed_bad),
            (
                "scrub_wrong_digests",
                "Whole contents that these found wrong and removed",
                &store.scrubbed_wrong,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "scrub_running",
            "1 while a round of the scrub is under way",
            store.scrub_running.clone(),
        );
        registry.register_with_unit(
            "scrub_ended_timestamp",
            "When the last whole round of the scrub ended, in Unix time; 0 if none has",
            Unit::Seconds,
            store.scrub_ended.clone(),
        );
        registry.register_with_unit(
            "cache_written",
            "Bytes written to slots",
            Unit::Bytes,
            store.written.clone(),
        );
        let cluster = ClusterGauges::default();
        cluster.register(&mut registry);
        Arc::new(Self {
            registry,
            requests,
            body_bytes,
            head_seconds,
            origin_requests,
            origin_bytes,
            unkept_bytes,
            shed,
            boots_recorded,
            boots_followed,
            boot_ahead_blocks,
            connections,
            longest_poll_seconds,
            store,
            cluster,
        })
    }

    /// A request was answered, its head after `elapsed`.
    pub(crate) fn answered(&self, source: Source, status: u16, elapsed: Duration) {
        self.requests.get_or_create(&Answered { source, status }).inc();
        self.head_seconds.get_or_create(&BySource { source }).observe(elapsed.as_secs_f64());
    }

    /// Bytes of an answer's body were handed to its connection.
    pub(crate) fn body(&self, source: Source, bytes: usize) {
        self.body_bytes.get_or_create(&BySource { source }).inc_by(bytes as u64);
    }

    pub(crate) fn origin_answered(
        &self,
        _registry: &config::Registry,
        answer: &Result<BlobAnswer, OriginError>,
    ) {
        let outcome = match answer {
            Ok(BlobAnswer::Bytes(_) | BlobAnswer::NoLength) => Outcome::Bytes,
            Ok(BlobAnswer::Unsatisfied { .. } | BlobAnswer::Verdict(_)) => Outcome::Refused,
            Err(OriginError::Unusable { .. }) => Outcome::Unusable,
            Err(OriginError::Unreachable { .. }) => Outcome::Unreachable,
            Err(OriginError::Forbidden { .. }) => Outcome::Forbidden,
        };
        self.origin_requests.get_or_create(&ByOutcome { outcome }).inc();
    }

    pub(crate) fn origin_body(&self, bytes: usize) {
        self.origin_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn unkept(&self, bytes: usize) {
        self.unkept_bytes.inc_by(bytes as u64);
    }

    /// The cluster was told how a content was read.
    pub(crate) fn boot_recorded(&self) {
        self.boots_recorded.inc();
    }

    /// The cluster knew how a content is read.
    pub(crate) fn boot_followed(&self) {
        self.boots_followed.inc();
    }

    /// Blocks came ahead of a boot.
    pub(crate) fn brought_ahead(&self, blocks: usize) {
        self.boot_ahead_blocks.inc_by(blocks as u64);
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
    }

    pub(crate) fn connection_shed(&self) {
        self.shed.inc();
    }

    /// A window of a shard's work has ended.
    pub(crate) fn longest_poll(&self, longest: Duration) {
        self.longest_poll_seconds.observe(longest.as_secs_f64());
    }

    /// What has moved since the start, for people to look at.
    pub(crate) fn moved(&self) -> Moved {
        let body = |source| self.body_bytes.get(&BySource { source }).map_or(0, |counter| counter.get());
        Moved {
            hit_bytes: body(Source::Cache),
            fetched_bytes: body(Source::Origin),
            passed_bytes: body(Source::Pass),
            origin_bytes: self.origin_bytes.get(),
            unkept_bytes: self.unkept_bytes.get(),
            connections: u64::try_from(self.connections.get()).unwrap_or(0),
            connections_shed: self.shed.get(),
        }
    }

    /// The OpenMetrics text, with the numbers of this moment of the store, and of the cluster that the node is in.
    pub(crate) fn text(&self, store: &Store, cluster: Option<&Shared>) -> String {
        self.store.take_over(&store.stats(), &store.scrub_status());
        cluster.inspect(|cluster| self.cluster.take_over(cluster));
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Formatting into a string does not fail; an empty answer would look like a healthy one.
            let _ = writeln!(text, "# the metrics could not be written");
        }
        text
    }
}

impl StoreGauges {
    fn take_over(&self, stats: &StoreStats, scrub: &ScrubStatus) {
        set(&self.capacity, stats.capacity_bytes);
        set(&self.used, stats.used_bytes);
        set(&self.contents, stats.contents);
        set(&self.leases, stats.leases);
        set(&self.slabs_out_of_service, stats.slabs_out_of_service);
        set(&self.buffers, stats.buffer_bytes);
        raise(&self.evicted, stats.evicted_pieces);
        raise(&self.checks_passed, stats.blocks_checked);
        raise(&self.checks_failed, stats.checks_failed);
        raise(&self.hot, stats.hot_reads);
        raise(&self.cold, stats.cold_reads);
        raise(&self.refused, stats.refused_reservations);
        raise(&self.written, stats.written_bytes);
        raise(&self.scrubbed, stats.scrubbed_blocks);
        raise(&self.scrubbed_bad, stats.scrubbed_bad_blocks);
        raise(&self.scrubbed_wrong, stats.scrubbed_wrong_digests);
        set(&self.scrub_running, u64::from(scrub.on && scrub.round.is_some()));
        set(&self.scrub_ended, scrub.ended_at_s);
    }
}

impl ClusterGauges {
    fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("cluster_joined", "1 while this node knows the seeds of its cluster", &self.joined),
            ("cluster_seeds", "Seeds that hold a place in the cluster, this node with them", &self.seeds),
            ("peers_connected", "Other nodes with a connection to this one", &self.nodes),
            ("peer_connections", "Connections with other nodes", &self.connections),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            ("peer_sent", "Bytes of blocks to other nodes", &self.sent_bytes),
            (
                "peer_received",
                "Bytes of blocks from other nodes, whatever became of them",
                &self.received_bytes,
            ),
            ("peer_late", "Bytes of blocks from other nodes that were here already", &self.late_bytes),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        registry.register_with_unit(
            "peer_pulled",
            "Bytes of blocks from other nodes that were wanted and right, by who sent them",
            Unit::Bytes,
            self.pulled_bytes.clone(),
        );
        for (name, help, counter) in [
            ("peer_wrong_blocks", "Blocks from other nodes that were not those attested", &self.wrong_blocks),
            (
                "peer_left_to_origin_blocks",
                "Blocks wanted of the cluster for which this node was sent to the registry",
                &self.left_to_origin_blocks,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    fn take_over(&self, cluster: &Shared) {
        let (seeds, totals, counted) = (cluster.seeds(), cluster.peers().totals(), cluster.counters().now());
        let knows_seeds = matches!(seeds.standing(), Standing::Alone | Standing::Joined);
        set(&self.joined, u64::from(knows_seeds));
        set(&self.seeds, seeds.live().len() as u64);
        set(&self.nodes, totals.nodes);
        set(&self.connections, totals.sessions);
        raise(&self.sent_bytes, totals.sent_bytes);
        raise(&self.received_bytes, totals.received_bytes);
        for (from, bytes) in
            [(Sender::Owner, counted.from_owner_bytes), (Sender::Parent, counted.from_parents_bytes)]
        {
            raise(&self.pulled_bytes.get_or_create(&ByFrom { from }), bytes);
        }
        raise(&self.late_bytes, counted.late_bytes);
        raise(&self.wrong_blocks, counted.wrong_blocks);
        raise(&self.left_to_origin_blocks, counted.left_to_origin_blocks);
    }
}

fn set(gauge: &Gauge<i64, AtomicI64>, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Others count; a scrape brings the counter up to them.
fn raise(counter: &Counter<u64, AtomicU64>, value: u64) {
    counter.inner().fetch_max(value, Ordering::Relaxed);
}
