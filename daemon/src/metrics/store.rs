//! The store's own numbers, taken over at each scrape.

use darter_engine::store::{ScrubStatus, StoreStats};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{raise, set};

/// Of one store.
#[derive(Debug, Default)]
pub(super) struct Store {
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

impl Store {
    pub(super) fn register(&self, registry: &mut Registry) {
        let bytes = |name: &str, help: &str, gauge: &Gauge, registry: &mut Registry| {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        };
        bytes("cache_capacity", "Bytes that the store can hold", &self.capacity, registry);
        bytes("cache_used", "Bytes of slots in use", &self.used, registry);
        bytes("buffers", "Bytes of block buffers in use", &self.buffers, registry);
        registry.register("cache_contents", "Contents that the store knows", self.contents.clone());
        registry.register("cache_leases", "Leases on slots alive now", self.leases.clone());
        registry.register(
            "cache_slabs_out_of_service",
            "Slabs that take no new pieces until the next start: a sync failed or the file was cut short",
            self.slabs_out_of_service.clone(),
        );
        for (name, help, counter) in [
            ("cache_evicted_pieces", "Pieces of 256 KiB evicted", &self.evicted),
            ("cache_checks", "Blocks whose crc32 was computed before they were served", &self.checks_passed),
            ("cache_checks_failed", "Blocks that failed their crc32 and were dropped", &self.checks_failed),
            ("cache_hot_reads", "Runs of blocks served from the mapping", &self.hot),
            ("cache_cold_reads", "Runs of blocks read from disk", &self.cold),
            ("cache_refused", "Fetches that found no room in the store", &self.refused),
            ("scrub_blocks", "Blocks that the scrub or a verification read from the disk", &self.scrubbed),
            ("scrub_bad_blocks", "Those of them that were bad and were dropped", &self.scrubbed_bad),
            (
                "scrub_wrong_digests",
                "Whole contents that these found wrong and removed",
                &self.scrubbed_wrong,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "scrub_running",
            "1 while a round of the scrub is under way",
            self.scrub_running.clone(),
        );
        registry.register_with_unit(
            "scrub_ended_timestamp",
            "When the last whole round of the scrub ended, in Unix time; 0 if none has",
            Unit::Seconds,
            self.scrub_ended.clone(),
        );
        registry.register_with_unit(
            "cache_written",
            "Bytes written to slots",
            Unit::Bytes,
            self.written.clone(),
        );
    }

    pub(super) fn take_over(&self, stats: &StoreStats, scrub: &ScrubStatus) {
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
